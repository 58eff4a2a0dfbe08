"""BERT and the models derived from it: the method of their feed-forward."""

from lckernels.hf.family import Family

_METHOD = "feed_forward_chunk"

FAMILY = Family(name="bert", matches=lambda cls: hasattr(cls, _METHOD), feed_forward=(_METHOD,))
