"""The report of `lengthen`: what was found in a model, and what it reads now."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """What `lengthen` found and set. `str()` is a table.

    Attributes:
        model: name of the model's class.
        encoder: where the encoder is in the model, and its class.
        kind: what the model is.
        chunk_len: tokens of a chunk, special tokens and prefix included.
        chunk_len_from: where that number comes from.
        overlap: tokens that neighbouring chunks share.
        weights: as in `lengthen`; "explicit" for a tensor or a function.
        boundaries: as in `lengthen`.
        special_tokens: how many special tokens begin and end each row.
        prefix: what every chunk reads, in words.
        summary: as in `lengthen`, in words.
        pooler: how pooler_output is computed for longer rows, in words; empty if the encoder has none.
        joints: marker rows between the chunks' contributions, in words; empty without.
        merge: as in `lengthen`.
        attention: of a full chunk, in words.
        limit: what happened to the tokenizer's limit.
    """

    model: str
    encoder: str
    kind: str
    chunk_len: int
    chunk_len_from: str
    overlap: int
    weights: str
    boundaries: str
    special_tokens: tuple[int, int]
    prefix: str
    summary: str
    pooler: str
    joints: str
    merge: str
    attention: str
    limit: str

    @property
    def exactness(self) -> str:
        """Which results are the model's own, in words."""
        each = (
            "in a layer a token attends to its chunks" if self.merge == "layer" else "a token attends to its"
        )
        each += ", not" if self.merge == "layer" else " chunk, not"
        return f"exact up to {self.chunk_len:,} tokens; above, approximate: {each} to the whole sequence"

    def __str__(self) -> str:
        lead, trail = self.special_tokens
        rows = {
            "encoder": self.encoder,
            "chunks": f"{self.chunk_len:,} tokens ({self.chunk_len_from}), overlap {self.overlap:,}, "
            f"weights {self.weights}, boundaries {self.boundaries}",
            "special": f"{lead} at the beginning and {trail} at the end of a row, in every chunk",
            "prefix": self.prefix,
            "summary": self.summary,
            "pooler": self.pooler,
            "joints": self.joints,
            "merge": "after the last layer" if self.merge == "final" else "in every layer, after attention",
            "attention": self.attention,
            "result": self.exactness,
            "tokenizer": self.limit,
        }
        width = max(map(len, rows))
        lines = (f"{name.ljust(width)}  {text}" for name, text in rows.items() if text)
        return "\n".join([f"{self.model}: {self.kind}, reads sequences of any length", *lines])
