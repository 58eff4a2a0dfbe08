"""Perplexity of a decoder on a long text: strided scoring on lckernels' attention."""

from lckernels.perplexity.results import Comparison, Scored
from lckernels.perplexity.scoring import compare, score

__all__ = ["Comparison", "Scored", "compare", "score"]
