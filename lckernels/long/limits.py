"""Whether a model is an encoder, how many positions it has, and the sizes of chunks that fit it."""

import sys

from torch import nn

from lckernels.checks import bad
from lckernels.long.arguments import token_count
from lckernels.long.checkpoints import has_head
from lckernels.long.chunking import Chunking


def check_encoder(model: nn.Module) -> None:
    """Raises TypeError unless the model is an encoder without a task head."""
    name = type(model).__name__
    config = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or config is None:
        raise TypeError(f"model: got {name}; expected an encoder of transformers, as AutoModel loads it")
    if getattr(config, "is_encoder_decoder", False) and getattr(model, "decoder", None) is not None:
        raise TypeError(f"model: got {name}, encoder and decoder; pass its encoder, model.get_encoder()")
    causal = any(getattr(module, "is_causal", False) is True for module in model.modules())
    if causal or getattr(config, "is_decoder", False):
        raise TypeError(f"model: got {name}, a decoder, with causal attention; expected an encoder")
    base = getattr(type(model), "base_model_prefix", "")
    if has_head(name) and isinstance(getattr(model, base or " ", None), nn.Module):
        raise TypeError(f"model: got {name}, a model with a task head; pass its encoder, model.{base}")


def is_transformers_model(model: nn.Module) -> bool:
    """Whether a module of the model is a transformers model; does not import transformers."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and any(
        isinstance(module, transformers.PreTrainedModel) for module in model.modules()
    )


def position_table(model: nn.Module) -> nn.Embedding | None:
    """The model's table of absolute positions; None if it has none."""
    tables = (getattr(module, "position_embeddings", None) for module in model.modules())
    return next((table for table in tables if isinstance(table, nn.Embedding)), None)


def first_position(model: nn.Module) -> int:
    """The position of a sequence's first token: RoBERTa, XLM-R and MPNet count from padding_idx + 1."""
    table = position_table(model)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def usable_positions(model: nn.Module) -> tuple[int, str] | None:
    """The most tokens that the model's positions allow, and the rule in words; None without a limit."""
    table = position_table(model)
    if table is not None:
        limit = f"max_position_embeddings {table.num_embeddings}"
        if table.padding_idx is None:
            return table.num_embeddings, limit
        return table.num_embeddings - first_position(model), f"{limit} - padding_idx {table.padding_idx} - 1"
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions, f"max_position_embeddings {positions}"


def resolve_chunking(
    model: nn.Module,
    chunk_len: int | None,
    overlap: int | None,
    rule: str,
    special_tokens: tuple[int, int],
    num_prefix: int,
) -> Chunking:
    """The sizes of a chunk, with their defaults.

    Raises:
        TypeError: a size that is no integer.
        ValueError: sizes that do not fit the model.
    """
    limit = usable_positions(model)
    name = type(model).__name__
    if chunk_len is None:
        if limit is None:
            raise bad("chunk_len", "None", f"{name} has no limit of positions, so it is required")
        chunk_len = limit[0]
    chunk_len = token_count("chunk_len", chunk_len)
    if limit is not None and chunk_len > limit[0]:
        raise bad("chunk_len", chunk_len, f"{name} has {limit[0]} usable positions ({limit[1]})")
    if len(special_tokens) != 2 or min(special_tokens) < 0:
        raise bad("special_tokens", special_tokens, "expected (leading, trailing), both >= 0")
    leading, trailing = special_tokens
    content = chunk_len - leading - trailing - num_prefix
    sizes = f"{leading} + {trailing} special tokens and a prefix of {num_prefix}"
    if content < 1:
        raise bad("chunk_len", chunk_len, f"expected room for content beside {sizes}")
    if overlap is None:
        overlap = content // 4
    overlap = token_count("overlap", overlap)
    if not 0 <= overlap < content:
        allowed = f"expected 0 <= overlap < {content}, the content of a chunk of {chunk_len} with {sizes}"
        raise bad("overlap", overlap, allowed)
    return Chunking(chunk_len, overlap, rule, leading, trailing, num_prefix)
