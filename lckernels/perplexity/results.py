"""Results of scoring a text."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lckernels.checks import integer


@dataclass(frozen=True, eq=False)
class Scored:
    """Log-likelihoods of the tokens of a text.

    Attributes:
        nll: (num_tokens,) float32 on the CPU, the negative log-likelihood of each token in nats; 0 where it
            was not scored.
        scored: (num_tokens,) bool.
        seconds: time of the model, its head and the log-likelihoods.
    """

    nll: Tensor
    scored: Tensor
    seconds: float

    @property
    def num_scored(self) -> int:
        """Number of scored tokens."""
        return int(self.scored.sum())

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of the scored tokens; NaN if there are none."""
        return _exp(float(self.nll.double().sum()) / self.num_scored) if self.num_scored else math.nan

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the text, scored or not, per second."""
        return len(self.nll) / max(self.seconds, 1e-9)

    def bits_per_byte(self, token_bytes: Tensor) -> float:
        """Negative log-likelihood in bits per byte of the scored tokens; token_bytes: (num_tokens,) int64."""
        return float(self.nll.double().sum()) / math.log(2) / max(1, int(token_bytes[self.scored].sum()))

    def by_position(self, buckets: int) -> tuple[Tensor, Tensor]:
        """The perplexity within equal buckets of tokens; those without a scored token are left out.

        Args:
            buckets: their number, at least 1; at most that of the tokens is used.

        Returns:
            The middle positions of the buckets and their perplexities, both (num_buckets,) float64.
        """
        integer("buckets", buckets, 1)
        total = len(self.nll)
        buckets = min(buckets, total)
        bucket = torch.arange(total, device="cpu") * buckets // total
        sums, counts = torch.zeros(2, buckets, dtype=torch.float64, device="cpu")
        sums.index_add_(0, bucket, self.nll.double())
        counts.index_add_(0, bucket, self.scored.double())
        middles = (torch.arange(buckets, dtype=torch.float64, device="cpu") + 0.5) * total / buckets
        return middles[counts > 0], (sums / counts)[counts > 0].exp()


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores of the same text by the model as it is, and on lckernels' attention.

    Attributes:
        stock: of the model as it is.
        patched: of the model on lckernels' attention.
        difference: the largest absolute difference of a logit between the two, over the scored tokens.
        largest: the largest absolute logit of `stock` there.
    """

    stock: Scored
    patched: Scored
    difference: float
    largest: float


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)
