"""DistilBERT, ALBERT and XLM: the method of their feed-forward."""

from lckernels.hf.family import Family

_METHOD = "ff_chunk"

FAMILY = Family(name="distilbert", matches=lambda cls: hasattr(cls, _METHOD), feed_forward=(_METHOD,))
