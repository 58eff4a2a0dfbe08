"""OPT: learned positions, by the number of tokens before a token in the mask."""

from torch import nn

from lckernels.hf.family import Family


def _positions(module: nn.Module) -> tuple[int, bool] | None:
    table = getattr(module, "embed_positions", None)
    return None if table is None else (table.num_embeddings - table.offset, True)


FAMILY = Family(name="opt", learned_positions=_positions)
