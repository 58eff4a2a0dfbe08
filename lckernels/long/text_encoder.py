"""A model with its tokenizer that turns a text of any length into one hidden state per token."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lckernels.errors import InputError
from lckernels.long.encoder import LongEncoder
from lckernels.long.fingerprint import tokenizer_sha256, weights_sha256
from lckernels.long.loading import load
from lckernels.sentences import sentence_boundaries, token_boundaries

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one text.

    input_ids: (1, seqlen) int64, special tokens included. leading: how many special tokens come first.
    offsets: (num_tokens, 2) int64, the characters of each token, special tokens left out.
    """

    input_ids: Tensor
    offsets: Tensor
    leading: int


@dataclass(frozen=True, eq=False)
class Encoded:
    """states: (num_tokens, dim) in the model's dtype, special tokens left out; chunks and seconds it took."""

    states: Tensor
    num_chunks: int
    seconds: float


class TextEncoder:
    """LongEncoder over a model of the hub or a folder, with its tokenizer.

    model: a folder or a name on the Hugging Face hub. dtype: one of DTYPES. options: chunk_len, overlap,
    weights, boundaries, merge of LongEncoder.

    Raises InputError for a model that cannot be loaded or is no encoder, and for options that do not fit it.
    """

    def __init__(self, model: str, *, dtype: str = "float32", **options: Any) -> None:
        if find_spec("lckernels._host") is None:
            needs = "cutting a text into chunks needs lckernels' compiled extension"
            raise InputError(f"{needs}; install lckernels where there is a C++ compiler")
        self.name = model
        self.dtype = dtype
        self.tokenizer, encoder, self._random = load(model, DTYPES[dtype])
        self.num_leading, self._num_trailing = self._special_tokens()
        try:
            self.encoder = LongEncoder(
                encoder, special_tokens=(self.num_leading, self._num_trailing), **options
            ).eval()
            self.embed("x")
        except (TypeError, ValueError) as error:
            if not str(error).startswith(("model:", *(f"{name}:" for name in options))):
                raise
            raise InputError(str(error)) from None

    def identity(self, language: str) -> dict[str, str]:
        """What the states depend on beside the text, as strings; `language` only where it places cuts."""
        encoder = self.encoder
        return {
            "weights_sha256": weights_sha256(encoder.model, self._random),
            "tokenizer_sha256": tokenizer_sha256(self.tokenizer),
            "chunk_len": str(encoder.chunk_len),
            "overlap": str(encoder.overlap),
            "weights": str(encoder.weights),
            "boundaries": encoder.boundaries,
            "merge": encoder.merge,
            "language": language if encoder.boundaries == "sentence" else "any",
            "dtype": self.dtype,
        }

    def tokenize(self, text: str) -> Tokens:
        """The tokens of a text of any length; no special token stands for a part of the text."""
        encoding = self.tokenizer(
            text, return_offsets_mapping=True, truncation=False, verbose=False, split_special_tokens=True
        )
        ids = self._without_special(encoding["input_ids"])
        offsets = torch.tensor(encoding["offset_mapping"], device="cpu").reshape(-1, 2)
        inside = slice(self.num_leading, len(ids) - self._num_trailing)
        return Tokens(ids[None], offsets[inside], self.num_leading)

    def encode(
        self, tokens: Tokens, text: str, language: str, say: Callable[[str], None], progress: bool = False
    ) -> Encoded:
        """The merged last hidden state of a text; `language` places the cuts of boundaries="sentence"."""
        options = {}
        if self.encoder.boundaries == "sentence":
            cuts = token_boundaries(tokens.offsets, sentence_boundaries(text, language))
            options["sentence_boundaries"] = [[cut + tokens.leading for cut in cuts]]
        num_chunks = self.encoder.plan(tokens.input_ids.shape[1], **options).num_chunks
        how = ", merged in every layer" if self.encoder.merge == "layer" else ""
        say(f"reading {len(tokens.offsets):,} tokens in {num_chunks:,} chunks{how}")
        self.encoder.progress = progress
        start = time.perf_counter()
        with torch.inference_mode():
            output = self.encoder(input_ids=tokens.input_ids, **options)
        seconds = time.perf_counter() - start
        states = output.last_hidden_state[0, tokens.leading :][: len(tokens.offsets)]
        return Encoded(states, num_chunks, seconds)

    def embed(self, question: str) -> Tensor:
        """(dim,) float32, of length 1: the mean state of the question's tokens, special ones included."""
        ids = self.tokenizer(question, truncation=False, verbose=False, split_special_tokens=True)[
            "input_ids"
        ]
        options = {"sentence_boundaries": [[]]} if self.encoder.boundaries == "sentence" else {}
        self.encoder.progress = False
        with torch.inference_mode():
            states = self.encoder(input_ids=self._without_special(ids)[None], **options).last_hidden_state[0]
        return F.normalize(states.float().mean(0), dim=0)

    def _without_special(self, ids: list[int]) -> Tensor:
        """(seqlen,) int64; a special token within the text becomes the unknown token.

        Unigram vocabularies have pieces such as `</s>`, which split_special_tokens does not keep from a text.
        """
        ids = torch.tensor(ids, device="cpu")
        unknown = self.tokenizer.unk_token_id
        special = sorted({*self.tokenizer.all_special_ids} - {unknown})
        content = ids[self.num_leading : len(ids) - self._num_trailing]
        found = torch.isin(content, torch.tensor(special, dtype=ids.dtype, device="cpu"))
        if not found.any():
            return ids
        if unknown is None:
            name = self.tokenizer.convert_ids_to_tokens(int(content[found][0]))
            raise InputError(
                f"the text holds {name}, a special token of {self.name}, which has no unknown one"
            )
        content[found] = unknown
        return ids

    def _special_tokens(self) -> tuple[int, int]:
        """How many special tokens the tokenizer puts before and after a text."""
        special = self.tokenizer("x", return_special_tokens_mask=True)["special_tokens_mask"]
        if 0 not in special:
            raise InputError(f"the tokenizer of {self.name} makes no token of the letter x")
        return special.index(0), special[::-1].index(0)
