"""What the results of one attention case are compared with."""

from bench.cases.attention import AttentionCase
from bench.harness.check import FLOOR, Checked, Tensors, check, distance, largest, worst
from bench.suites import attention


class Exam:
    """The truth on some heads, the honest route on all; a head that is far from that gets its truth too."""

    def __init__(
        self, case: AttentionCase, direction: str, inputs: Tensors, *, every_head: bool = True
    ) -> None:
        self.case, self.heads = case, attention.checked_heads(case)
        self._direction, self._inputs = direction, inputs
        self._truths: dict[int, Tensors] = {}  # of heads that were far from the honest route
        checked = attention.of_heads(case, inputs, self.heads)
        self.want = self._truth(checked)
        self.every_head = every_head and len(self.heads) < case.num_kv_heads
        self.honest = attention.honest(case, direction, inputs if self.every_head else checked)

    def check(self, name: str, results: Tensors) -> Checked:
        """Raises AssertionError for a wrong result."""
        some = attention.of_heads(self.case, results, self.heads)
        if not self.every_head:
            return check(name, some, self.want, self.honest)
        honest = attention.of_heads(self.case, self.honest, self.heads)
        found = check(name, some, self.want, honest)
        # What `check` allows, and the honest route's own error.
        allowed = [
            3 * distance(nearer, want) + FLOOR[got.dtype] * max(1.0, largest(plain))
            for got, plain, nearer, want in zip(results, self.honest, honest, self.want, strict=True)
        ]
        verdicts = [found]
        for head in set(range(self.case.num_kv_heads)).difference(self.heads):
            got, plain = (attention.of_heads(self.case, x, [head]) for x in (results, self.honest))
            off = map(distance, got, plain)
            if not all(a <= b for a, b in zip(off, allowed, strict=True)):
                verdicts.append(check(f"{name}, key head {head}", got, self._truth_of(head), plain))
        return worst(verdicts)

    def _truth_of(self, head: int) -> Tensors:
        if head not in self._truths:
            self._truths[head] = self._truth(attention.of_heads(self.case, self._inputs, [head]))
        return self._truths[head]

    def _truth(self, inputs: Tensors) -> Tensors:
        return attention.truth(self.case, self._direction, inputs)
