"""GPT-2: learned positions, by a token's place in the sequence."""

from torch import nn

from lckernels.hf.family import Family


def _positions(module: nn.Module) -> tuple[int, bool] | None:
    table = getattr(module, "wpe", None)
    return None if table is None else (table.num_embeddings, False)


FAMILY = Family(name="gpt2", learned_positions=_positions)
