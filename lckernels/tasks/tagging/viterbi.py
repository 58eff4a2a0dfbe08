"""The best sequence of labels of a text under allowed transitions; needs the compiled extension `_host`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lckernels.checks import bad, floating, integers, tensor


def viterbi(
    logits: Tensor,
    transitions: Tensor,
    begin: Tensor | None = None,
    end: Tensor | None = None,
    lengths: Sequence[int] | None = None,
) -> Tensor:
    """The label of each token, such that the sum of logits and transition scores of a text is largest.

    Sums are in float64; of equal sums the lowest label is kept, from the last token to the first. The result
    is the same for logits and for their log-softmax, whose differences are the same at each token. One thread
    of the CPU; no gradients.

    Args:
        logits: (num_tokens, num_labels), any float dtype, any device; of several texts concatenated. -inf
            forbids a label.
        transitions: (num_labels, num_labels) float: added where the label of the column follows that of the
            row; -inf forbids it.
        begin: (num_labels,) float: added at the first token of a text. Default: zeros.
        end: (num_labels,) float: added at its last token. Default: zeros.
        lengths: the tokens of each text. Default: one text.

    Returns:
        (num_tokens,) int64 on the CPU.

    Raises:
        TypeError: logits or scores that are no tensors.
        ValueError: NaN or inf among the numbers, other shapes or dtypes, or a text without an allowed
            sequence.
        RuntimeError: the compiled extension is missing.
    """
    try:
        from lckernels import _host
    except ImportError as error:
        needs = "needs lckernels' compiled extension, which needs a C++ compiler at install time"
        raise RuntimeError(f"the search for the best labels {needs}") from error
    tensor("logits", logits, 2, "(num_tokens, num_labels)")
    tensor("transitions", transitions, 2, "(num_labels, num_labels)")
    num_tokens, num_labels = logits.shape
    if num_labels < 1:
        raise bad("logits", f"shape {tuple(logits.shape)}", "expected at least one label")
    if tuple(transitions.shape) != (num_labels, num_labels):
        raise bad("transitions", f"shape {tuple(transitions.shape)}", f"expected {(num_labels, num_labels)}")
    for name, part in (("begin", begin), ("end", end)):
        if part is not None:
            tensor(name, part, 1, "(num_labels,)")
            if len(part) != num_labels:
                raise bad(name, f"{len(part)} numbers", f"expected {num_labels}, one for each label")
    given = {"logits": logits, "transitions": transitions, "begin": begin, "end": end}
    for name, part in given.items():
        if part is not None:
            floating(name, part)
    values = logits.detach().to("cpu", torch.float32).contiguous()
    path = torch.empty(num_tokens, dtype=torch.int32, device="cpu")
    counts = [num_tokens] if lengths is None else integers("lengths", lengths).tolist()
    zeros = [0.0] * num_labels
    ends = [zeros if part is None else part.tolist() for part in (begin, end)]
    scores = transitions.float().flatten().tolist()
    _host.viterbi(values.data_ptr(), path.data_ptr(), num_tokens, num_labels, counts, scores, *ends)
    return path.long()
