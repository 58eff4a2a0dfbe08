"""What scoring a text gives."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model thinks of a text.

    nll: (num_tokens,) float32 on the CPU, the negative log-likelihood of each token in nats, 0 where it was
    not scored. scored: (num_tokens,) bool. seconds: of the model, its head and the log-likelihoods.
    """

    nll: Tensor
    scored: Tensor
    seconds: float

    @property
    def num_scored(self) -> int:
        return int(self.scored.sum())

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of the scored tokens."""
        return _exp(float(self.nll.double().sum()) / max(1, self.num_scored))

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the text, scored or not, per second."""
        return len(self.nll) / max(self.seconds, 1e-9)

    def bits_per_byte(self, token_bytes: Tensor) -> float:
        """Bits that the model needs for a byte of the scored tokens; token_bytes: (num_tokens,) int64."""
        return float(self.nll.double().sum()) / math.log(2) / max(1, int(token_bytes[self.scored].sum()))

    def by_position(self, buckets: int) -> tuple[Tensor, Tensor]:
        """Positions of the middles of equal buckets of tokens, and the perplexity within each, both float64.

        Buckets without a scored token are left out.
        """
        total = len(self.nll)
        buckets = min(buckets, total)
        bucket = torch.arange(total) * buckets // total
        sums, counts = torch.zeros(2, buckets, dtype=torch.float64)
        sums.index_add_(0, bucket, self.nll.double())
        counts.index_add_(0, bucket, self.scored.double())
        middles = (torch.arange(buckets, dtype=torch.float64) + 0.5) * total / buckets
        return middles[counts > 0], (sums / counts)[counts > 0].exp()


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same text read by the model as it is (stock) and on lckernels' attention (patched).

    difference: the largest one between two logits that scored a token. largest: the largest such stock logit.
    """

    stock: Scored
    patched: Scored
    difference: float
    largest: float


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)
