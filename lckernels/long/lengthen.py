"""The public functions lengthen, unlengthen and lengthened."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad, integers
from lckernels.inner_forward import outer_forward, unwrap_forward, wrap_forward
from lckernels.long.arguments import Weights
from lckernels.long.attention import describe_attention
from lckernels.long.decoders import DecoderForward, check_decoder
from lckernels.long.head_trial import HeadTrial, check_head, try_head
from lckernels.long.joints import Joints, check_marker
from lckernels.long.length_report import Report
from lckernels.long.lengthened import LengthenedEncoder, LengthenedForward
from lckernels.long.pairs import PairRule, pair_rule
from lckernels.long.parts import Parts, find_parts
from lckernels.long.readers import check_restorable, longest_chunk, raise_limits, restore_limits
from lckernels.long.seams import SeamCounts, SeamRule
from lckernels.long.text_limits import NO_LIMIT, own_limit, raise_limit, restore_limit
from lckernels.long.tokenizer_state import restored
from lckernels.long.tokens import count_special_tokens, prefix_ids
from lckernels.prompts import num_prefix_keys, num_virtual_tokens, unread_prefix_keys


def lengthen(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    chunk_len: int | None = None,
    overlap: int | None = None,
    weights: Weights = "triangular",
    boundaries: str = "sled",
    special_tokens: tuple[int, int] | None = None,
    prefix: str | Sequence[int] | Tensor | None = "pair",
    summary: str = "mean",
    joints: int | Tensor | None = None,
    merge: str = "final",
    attention: str = "auto",
    max_tokens: int = 4096,
    recompute: bool = False,
    output_device: torch.device | str | None = None,
    progress: bool = False,
) -> Report:
    """This model reads input of any length: its encoder's hidden states are merged, the rest runs once.

    The encoder in the model reads a longer row in overlapping chunks, as LongEncoder does; the head or the
    decoder reads one sequence of states. A row of at most chunk_len tokens runs as before. Only this instance
    changes: modules, names, state_dict, config and saved files are what they were.

    Args:
        model: an encoder of transformers, with or without a task head; an encoder-decoder; a
            SentenceTransformer; or a module that contains one of these (PEFT, DDP).
        tokenizer: of the model. Its special tokens and separators are read, and its limit of tokens is raised
            until `unlengthen`. A SentenceTransformer has its own.
        chunk_len: tokens of a chunk, special tokens and prefix included. Default: all the encoder's
            positions, of a SentenceTransformer at most its max_seq_length; without such a limit the
            tokenizer's, then the config's n_positions.
        overlap: tokens that neighbouring chunks share. Default: a quarter of the chunk's content.
        weights: as in LongEncoder: "triangular" (default), "uniform", "hann", "crop", a tensor or a function.
        boundaries: where chunks are cut: "sled" (default) or "max_context".
        special_tokens: how many special tokens begin and end each row. Default: those of the tokenizer;
            without one (1, 1), and an error for an encoder-decoder.
        prefix: what every chunk reads first. "pair" (default): in a row of two segments the first one, such
            as a question, found by token types or separators; its states are merged over the chunks. If it
            does not fit in a chunk, and the second one does, that one, such as a hypothesis. Token
            ids, or with a tokenizer a text: an instruction; rows that begin with it keep its states, others
            do not contain it, nor do those of inputs_embeds. None: nothing.
        summary: the states of leading special tokens and of a first segment: "mean" (default) over the
            chunks, each weighted by the tokens that it keeps; "first", those of the first chunk.
        joints: for an encoder-decoder, a row between the states that neighbouring chunks contribute: a token
            id, whose embedding it is, or a vector (dim,), which may be a parameter. The mask has it too.
        merge: "final" (default) or "layer", as in LongEncoder; "layer" requires summary="first".
        attention: "auto" (default), "lckernels" or "model", as in LongEncoder.
        max_tokens: bound on the tokens of a micro-batch of chunks.
        recompute: the backward runs each micro-batch of a longer row again, instead of storing its
            activations; as in LongEncoder.
        output_device: where chunks are merged. Default: the model's device.
        progress: show a progress bar (tqdm) over the tokens of rows longer than a chunk.

    Returns:
        The report: what was found, and which results are exact.

    Raises:
        TypeError: an argument of another type; a model without such an encoder, such as a decoder; one that
            is compiled; a head that reads what merged states do not have, such as the last state; a decoder
            that reads the rows too, with a limit of positions.
        ValueError: an invalid argument; a model that is lengthened.
    """
    parts = find_parts(model)
    name = type(model).__name__
    if parts.is_lengthened:
        raise bad("model", f"{name}, lengthened already", "call lckernels.unlengthen(model) first")
    if num_prefix_keys(model) and not parts.is_encoder_decoder:  # whose decoder alone has the keys
        unread = unread_prefix_keys(model)
        if unread:
            raise TypeError(f"model: got {unread}; expected another PEFT method")
        got = f"{name} with prefix tuning, whose keys are arguments of the encoder's call"
        raise bad("model", got, "expected another PEFT method; LongEncoder(model) supports this one")
    if boundaries == "sentence":
        allowed = "allowed are 'sled' and 'max_context'; LongEncoder supports 'sentence'"
        raise bad("boundaries", "'sentence'", allowed)
    check_decoder(parts.model, parts.decoder)
    marker = None if joints is None else check_marker(joints, parts.encoder, parts.decoder)
    if parts.tokenizer is not None and tokenizer not in (None, parts.tokenizer):
        raise bad("tokenizer", type(tokenizer).__name__, f"{name} reads texts with its own; expected None")
    if tokenizer is None:
        tokenizer = parts.tokenizer
    parts = replace(parts, tokenizer=tokenizer)
    _check_tokenizer(tokenizer)
    with restored(tokenizer):  # a call of it changes what it saves
        special_tokens = _special_tokens(parts, tokenizer, special_tokens)
        pairs, ids = _prefix(parts, tokenizer, prefix)
    chunk_len, source = _chunk_len(parts, tokenizer, chunk_len)
    options = {
        "chunk_len": chunk_len,
        "overlap": overlap,
        "weights": weights,
        "boundaries": boundaries,
        "special_tokens": special_tokens,
        "summary": summary,
        "merge": merge,
        "attention": attention,
        "max_tokens": max_tokens,
        "recompute": recompute,
        "output_device": output_device,
        "progress": progress,
    }
    encoder = LengthenedEncoder(parts.encoder, **options)
    prefixed = None if ids is None else LengthenedEncoder(parts.encoder, prefix=ids, **options)
    head = try_head(parts)
    check_head(model, parts, head)
    for reader in (encoder, prefixed) if prefixed is not None else (encoder,):
        reader.head, reader.ranks = head, encoder.ranks
    if marker is not None:
        _add_joints(parts, marker, encoder, prefixed)
    virtual = num_virtual_tokens(model) - num_prefix_keys(model)  # those that the chunks read
    report = _report(name, parts, encoder, prefixed, pairs, source, tokenizer, virtual, prefix)
    left_padding = parts.is_encoder_decoder
    forward = LengthenedForward(encoder, prefixed, pairs, report, parts, left_padding)
    wrap_forward(parts.encoder, forward)
    if encoder.joints is not None:
        wrap_forward(parts.decoder, DecoderForward(parts.decoder, encoder.joints))
    if tokenizer is not None:
        raise_limit(tokenizer)
    for reader in parts.readers:
        raise_limits(reader, encoder.chunk_len, parts.saver)
    return report


def unlengthen(model: nn.Module) -> None:
    """Restores all that `lengthen` changed, the tokenizer's limit too, to its state before.

    Args:
        model: the argument of `lengthen`, a module that contains it, or a model within it with the encoder;
            of a copy of these, the whole copy.

    Raises:
        TypeError: `model` is no model that `lengthen` supports.
        ValueError: the model is not lengthened, or another library has replaced a changed forward since.
    """
    parts = find_parts(model, compiled=True)
    if not parts.is_lengthened:
        got = f"{type(model).__name__}, not lengthened"
        raise bad("model", got, "expected a model after lckernels.lengthen")
    _, forward = outer_forward(parts.encoder, LengthenedForward)
    parts = forward.parts or parts  # `model` may be a part of what was lengthened
    for reader in parts.readers:
        check_restorable(reader)
    if forward.encoder.joints is not None and parts.decoder is not None:
        unwrap_forward(parts.decoder, DecoderForward)
    unwrap_forward(parts.encoder, LengthenedForward)
    for reader in parts.readers:
        restore_limits(reader, parts.saver)
    if parts.tokenizer is not None:
        restore_limit(parts.tokenizer)


@contextmanager
def lengthened(model: nn.Module, tokenizer: Any = None, **options: Any) -> Iterator[Report]:
    """`lengthen(...)` as a context manager: yields the report, and restores the model at the end."""
    report = lengthen(model, tokenizer, **options)
    try:
        yield report
    finally:
        unlengthen(model)


def _add_joints(
    parts: Parts, marker: int | Tensor, encoder: LengthenedEncoder, prefixed: LengthenedEncoder | None
) -> None:
    """Both encoders get the joints, with one rule for the numbers of a row."""
    leading = encoder.special_tokens[0]
    rule = SeamRule(SeamCounts(encoder.chunking, leading), None)
    if prefixed is not None:
        with_prefix = SeamCounts(encoder.chunking, leading + len(prefixed.prefix))
        rule = SeamRule(with_prefix, SeamCounts(prefixed.chunking, leading))
        prefixed.joints = Joints(marker, rule)
    encoder.joints = Joints(marker, rule)


def _check_tokenizer(tokenizer: Any) -> None:
    if tokenizer is not None and not (callable(tokenizer) and hasattr(tokenizer, "model_max_length")):
        got, expected = type(tokenizer).__name__, "as AutoTokenizer.from_pretrained loads it"
        raise TypeError(f"tokenizer: got {got}; expected a tokenizer of transformers, {expected}")


def _special_tokens(parts: Parts, tokenizer: Any, given: tuple[int, int] | None) -> tuple[int, int]:
    if given is not None:
        return given
    if tokenizer is not None:
        return count_special_tokens(tokenizer, type(parts.model).__name__)
    if parts.is_encoder_decoder:
        got = f"None without a tokenizer for {type(parts.model).__name__}"
        raise bad("special_tokens", got, "pass the tokenizer, or (leading, trailing), such as (0, 1)")
    return 1, 1


def _prefix(parts: Parts, tokenizer: Any, prefix: Any) -> tuple[PairRule | None, Any]:
    """The rule for pairs or None, and the ids of a fixed prefix or None."""
    if prefix is None:
        return None, None
    if not isinstance(prefix, str):
        if not hasattr(prefix, "__len__"):
            raise TypeError(f"prefix: got {prefix!r}; expected 'pair', token ids, a text or None")
        ids = integers("prefix", prefix)
        if not len(ids):
            raise bad("prefix", "no token", "expected some, or None for no prefix")
        return None, ids
    if prefix == "pair":
        return pair_rule(parts.encoder, tokenizer), None
    if tokenizer is None:
        raise bad(
            "prefix", repr(prefix), "a text requires a tokenizer; else expected 'pair', token ids or None"
        )
    return None, prefix_ids(tokenizer, prefix)


def _chunk_len(parts: Parts, tokenizer: Any, given: int | None) -> tuple[int | None, str]:
    """The tokens of a chunk, and where the number comes from."""
    if given is not None:
        return given, "given"
    found = longest_chunk(parts.encoder, parts.readers)
    if found is not None:
        return found
    limit = NO_LIMIT if tokenizer is None else own_limit(tokenizer)
    if limit < NO_LIMIT:
        return limit, "the tokenizer's model_max_length"
    limit = getattr(parts.encoder.config, "n_positions", None)
    return limit, "n_positions of the config"


def _pooler(head: HeadTrial) -> str:
    """What pooler_output is, in words; empty without one."""
    if not head.is_pooled:
        return ""
    return f"{head.pooling}, on the merged states" if head.pooling else "None for longer rows"


def _report(
    name: str,
    parts: Parts,
    encoder: LengthenedEncoder,
    prefixed: LengthenedEncoder | None,
    pairs: PairRule | None,
    source: str,
    tokenizer: Any,
    virtual: int,
    given: Any,
) -> Report:
    prefix = "none" if pairs is None else str(pairs)
    if pairs is not None and parts.readers:
        prefix = f"the prompt of a call, or {prefix}"
    if prefixed is not None:
        count = len(prefixed.prefix)
        prefix = f"{count} given tokens" if count > 1 else "1 given token"
        prefix += f" ({given!r})" if isinstance(given, str) else ""
    if virtual:
        prefix = f"{virtual} virtual tokens" if prefix == "none" else f"{virtual} virtual tokens; {prefix}"
    states = "leading tokens such as [CLS] have"
    summary = f"{states} their states in the first chunk"
    if encoder.summary == "mean":
        summary = f"{states} the mean of their states over the chunks, weighted by the tokens that each keeps"
    limit = "none given: truncation=True still cuts texts to its limit"
    if tokenizer is not None:
        limit = f"limit {own_limit(tokenizer):,} removed until unlengthen: texts are not truncated"
    if tokenizer is not None and own_limit(tokenizer) >= NO_LIMIT:
        limit = "without a limit"
    where = type(parts.encoder).__name__
    return Report(
        model=name,
        encoder=f"{parts.name} ({where})" if parts.name else where,
        kind=parts.kind,
        chunk_len=encoder.chunk_len,
        chunk_len_from=source,
        overlap=(prefixed or encoder).overlap,
        weights=encoder.weights if isinstance(encoder.weights, str) else "explicit",
        boundaries=encoder.boundaries,
        special_tokens=encoder.special_tokens,
        prefix=prefix,
        summary=summary,
        joints="" if encoder.joints is None else str(encoder.joints),
        pooler=_pooler(encoder.head),
        merge=encoder.merge,
        attention=describe_attention(parts.encoder, encoder.attention, encoder.chunk_len),
        limit=limit,
    )
