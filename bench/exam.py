"""What the results of one attention case are compared with."""

from bench import attention
from bench.attention_cases import AttentionCase
from bench.check import FLOOR, Checked, Tensors, check, distance, largest


class Exam:
    """The truth on the heads that are checked, the honest route on all."""

    def __init__(
        self, case: AttentionCase, direction: str, inputs: Tensors, *, every_head: bool = True
    ) -> None:
        self.case, self.heads = case, attention.checked_heads(case)
        checked = attention.of_heads(case, inputs, self.heads)
        self.want = attention.truth(case, direction, checked)
        self.every_head = every_head and len(self.heads) < case.num_kv_heads
        self.honest = attention.honest(case, direction, inputs if self.every_head else checked)

    def check(self, name: str, results: Tensors) -> Checked:
        """Raises AssertionError for a wrong result; heads without a truth must be near the honest route's."""
        some = attention.of_heads(self.case, results, self.heads)
        if not self.every_head:
            return check(name, some, self.want, self.honest)
        honest = attention.of_heads(self.case, self.honest, self.heads)
        found = check(name, some, self.want, honest)
        for got, plain, nearer, want in zip(results, self.honest, honest, self.want, strict=True):
            # What `check` allows, and the honest route's own error.
            allowed = 3 * distance(nearer, want) + FLOOR[got.dtype] * max(1.0, largest(plain))
            off = distance(got, plain)
            assert off <= allowed, (
                f"{name}: a head is {off:.3g} off the honest route, allowed is {allowed:.3g}"
            )
        return found
