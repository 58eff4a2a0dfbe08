"""MobileBERT: its embedding of a token reads the two neighbouring tokens."""

from torch import nn

from lckernels.hf.family import Family


def _trigrams(model: nn.Module) -> str:
    return "its embeddings mix neighbouring tokens" if getattr(model.config, "trigram_input", False) else ""


FAMILY = Family(name="mobilebert", mixes_tokens=_trigrams)
