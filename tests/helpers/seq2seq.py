"""Tiny encoder-decoders, rows of token ids, and the states of a long row by a plain loop over its chunks."""

import copy
from typing import Any

import torch
import transformers
from helpers.merged_by_hand import content_sizes, kept_ends, merged_by_hand
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

import lckernels
from lckernels.long.length_report import Report

PAD, EOS, BOS, LANGUAGE, VOCAB, CHUNK = 0, 1, 2, 3, 60, 24
_IDS = {"vocab_size": VOCAB, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": BOS}
_START = {**_IDS, "decoder_start_token_id": BOS}
_T5 = {**_START, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
_BART = {
    **_START, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "dropout": 0.0,
    "max_position_embeddings": CHUNK, "init_std": 0.2, "forced_eos_token_id": None,
}  # fmt: skip
_BERT = {
    **_IDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "initializer_range": 0.2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_GEMMA = {
    **_IDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12,
    "initializer_range": 0.2, "max_position_embeddings": CHUNK, "dropout_rate": 0.0,
}  # fmt: skip

# How many special tokens begin and end a row, as the tokenizer of each adds them.
SPECIAL = {
    "t5": (0, 1), "mt5": (0, 1), "umt5": (0, 1), "bart": (1, 1), "mbart": (0, 2), "pegasus": (0, 1),
    "marian": (0, 1), "t5gemma": (1, 0), "bert2bert": (1, 1),
}  # fmt: skip
WITHOUT_POSITIONS = ("t5", "mt5", "umt5")
LABELS = torch.randint(8, VOCAB, (3, 7), generator=torch.Generator().manual_seed(1))


def build(name: str) -> nn.Module:
    """The tiny model, in eval mode, the same weights each time."""
    torch.manual_seed(0)
    model = _build(name)
    for module in model.modules():
        if hasattr(module, "relative_attention_bias"):
            nn.init.normal_(module.relative_attention_bias.weight, std=2)
    return model.eval()


def lengthened_and_plain(name: str, **options: Any) -> tuple[nn.Module, nn.Module, Report]:
    """The tiny model lengthened, a copy of it that is not, and the report; `options` of lengthen."""
    model = build(name)
    plain = copy.deepcopy(model)
    sizes = {"chunk_len": CHUNK} if name in WITHOUT_POSITIONS else {}
    return model, plain, lckernels.lengthen(model, **{"special_tokens": SPECIAL[name], **sizes, **options})


def _build(name: str) -> nn.Module:
    t = transformers
    if name == "bert2bert":
        parts = (t.BertConfig(**_BERT, max_position_embeddings=size) for size in (CHUNK, 64))
        config = t.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
        for key, value in _START.items():
            setattr(config, key, value)
        return t.EncoderDecoderModel(config)
    if name == "t5gemma":
        parts = {part: t.T5GemmaModuleConfig(**_GEMMA) for part in ("encoder", "decoder")}
        model = t.T5GemmaForConditionalGeneration(t.T5GemmaConfig(**parts, **_IDS, dropout_rate=0.0))
        model.generation_config.decoder_start_token_id = BOS
        return model
    of_t5 = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}
    if name in of_t5:
        config = getattr(t, f"{of_t5[name]}Config")(**_T5)
        return getattr(t, f"{of_t5[name]}ForConditionalGeneration")(config)
    prefix = {"bart": "Bart", "mbart": "MBart", "pegasus": "Pegasus", "marian": "Marian"}[name]
    scaled = {"scale_embedding": name in ("pegasus", "marian", "mbart")}
    config = getattr(t, f"{prefix}Config")(**_BART, **scaled)
    return getattr(t, "MarianMTModel" if name == "marian" else f"{prefix}ForConditionalGeneration")(config)


def row(length: int, special: tuple[int, int], seed: int = 0, prefix: list[int] = ()) -> Tensor:
    """(length,) token ids: leading special tokens, prefix, content, trailing ones."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    ids = torch.randint(8, VOCAB, (length,), generator=generator)
    leading, trailing = special
    ids[:leading] = BOS
    ids[length - trailing :] = torch.tensor([EOS, LANGUAGE])[:trailing]
    ids[leading : leading + len(prefix)] = torch.tensor(prefix, dtype=torch.long)
    return ids


def batch(rows: list[Tensor], side: str = "right") -> dict[str, Tensor]:
    """The rows padded, and their mask."""
    seqlen = max(map(len, rows))
    ids, mask = torch.full((len(rows), seqlen), PAD), torch.zeros(len(rows), seqlen, dtype=torch.long)
    for i, ids_of_row in enumerate(rows):
        columns = slice(0, len(ids_of_row)) if side == "right" else slice(seqlen - len(ids_of_row), None)
        ids[i, columns], mask[i, columns] = ids_of_row, 1
    return {"input_ids": ids, "attention_mask": mask}


def loop_states(
    encoder: nn.Module,
    ids: Tensor,
    special: tuple[int, int],
    chunk_len: int = CHUNK,
    overlap: int | None = None,
    prefix: list[int] = (),
    lead: int | None = None,
    joint: Tensor | None = None,
) -> Tensor:
    """(length, dim): the states of one row of ids chunk by chunk, with triangular weights and summary="mean".

    Args:
        encoder: as it was before `lengthen`.
        ids: (length,), all of them tokens.
        special: how many special tokens begin and end it.
        chunk_len: tokens of a chunk.
        overlap: of the chunks; default: a quarter of their content.
        prefix: ids that each chunk reads after the leading tokens; their states are dropped.
        lead: tokens that begin the row and that each chunk reads. Default: the special ones.
        joint: (dim,), a row between the tokens that two neighbouring chunks keep.
    """
    lead, trail = special[0] if lead is None else lead, special[1]
    prefix = torch.tensor(prefix, dtype=torch.long)

    def read(columns: Tensor) -> list[Tensor]:
        chunk = torch.cat([ids[columns[:lead]], prefix, ids[columns[lead:]]])
        states = encoder(input_ids=chunk[None]).last_hidden_state[0]
        return [torch.cat([states[:lead], states[lead + len(prefix) :]])]

    sizes = {"lead": lead, "trail": trail, "chunk_len": chunk_len - len(prefix), "overlap": overlap}
    (states,), _ = merged_by_hand(read, len(ids), **sizes)
    if joint is None:
        return states
    seams = [lead + end for end in kept_ends(*content_sizes(len(ids), **sizes))[:-1]]
    first, *others = states.tensor_split(seams)
    return torch.cat([first, *(part for other in others for part in (joint[None], other))])


def encoder_outputs(states: list[Tensor], side: str = "right") -> dict[str, Tensor]:
    """The arguments encoder_outputs and attention_mask for rows of states."""
    seqlen = max(map(len, states))
    rows = []
    mask = torch.zeros(len(states), seqlen, dtype=torch.long)
    for i, of_row in enumerate(states):
        padding = (0, 0, 0, seqlen - len(of_row)) if side == "right" else (0, 0, seqlen - len(of_row), 0)
        rows.append(nn.functional.pad(of_row, padding))
        mask[i, slice(0, len(of_row)) if side == "right" else slice(seqlen - len(of_row), None)] = 1
    return {"encoder_outputs": BaseModelOutput(last_hidden_state=torch.stack(rows)), "attention_mask": mask}
