"""How well a decoder predicts a long text: strided scoring on lckernels' attention.

`lckernels perplexity` is the command; `score` and `compare` are the same in Python.
"""

from lckernels.perplexity.results import Comparison, Scored
from lckernels.perplexity.scoring import compare, score

__all__ = ["Comparison", "Scored", "compare", "score"]
