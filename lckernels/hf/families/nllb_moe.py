"""NLLB-MoE: with a bound on an expert's tokens, which of a batch's tokens it takes depends on all rows."""

from torch import nn

from lckernels.hf.family import Family


def _single_rows(module: nn.Module) -> str:
    # At a fraction of 1, the default, an expert takes every token.
    fraction = getattr(module, "moe_eval_capacity_token_fraction", 1.0)
    return "" if fraction >= 1 else "the tokens of all rows share the capacity of an expert"


FAMILY = Family(name="nllb_moe", single_rows=_single_rows)
