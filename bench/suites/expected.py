"""The expected results of one attention case."""

from bench.cases.attention import AttentionCase
from bench.harness.check import FLOOR, Checked, Tensors, check, distance, largest, worst
from bench.suites import attention


class Expected:
    """The reference in higher precision for some heads, the plain torch result in the case's dtype for all.

    A head whose result is far from the plain torch result is compared with the reference too.
    """

    def __init__(
        self, case: AttentionCase, direction: str, inputs: Tensors, *, every_head: bool = True
    ) -> None:
        self.case, self.heads = case, attention.checked_heads(case)
        self._direction, self._inputs = direction, inputs
        self._truths: dict[int, Tensors] = {}  # of heads that were far from the plain torch result
        checked = attention.of_heads(case, inputs, self.heads)
        self.want = self._truth(checked)
        self.every_head = every_head and len(self.heads) < case.num_kv_heads
        self.baseline = attention.baseline(case, direction, inputs if self.every_head else checked)

    def check(self, name: str, results: Tensors) -> Checked:
        """Raises AssertionError for a wrong result."""
        some = attention.of_heads(self.case, results, self.heads)
        if not self.every_head:
            return check(name, some, self.want, self.baseline)
        baseline = attention.of_heads(self.case, self.baseline, self.heads)
        found = check(name, some, self.want, baseline)
        # What `check` allows, and the plain torch result's own error.
        allowed = [
            3 * distance(nearer, want) + FLOOR[got.dtype] * max(1.0, largest(plain))
            for got, plain, nearer, want in zip(results, self.baseline, baseline, self.want, strict=True)
        ]
        checks = [found]
        for head in set(range(self.case.num_kv_heads)).difference(self.heads):
            got, plain = (attention.of_heads(self.case, x, [head]) for x in (results, self.baseline))
            off = map(distance, got, plain)
            if not all(a <= b for a, b in zip(off, allowed, strict=True)):
                checks.append(check(f"{name}, key head {head}", got, self._truth_of(head), plain))
        return worst(checks)

    def _truth_of(self, head: int) -> Tensors:
        if head not in self._truths:
            self._truths[head] = self._truth(attention.of_heads(self.case, self._inputs, [head]))
        return self._truths[head]

    def _truth(self, inputs: Tensors) -> Tensors:
        return attention.truth(self.case, self._direction, inputs)
