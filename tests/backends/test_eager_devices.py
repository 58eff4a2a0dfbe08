"""The backend eager on devices without kernels: its number of torch calls, and the warning."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lckernels import plan_chunks
from lckernels.backends import registry
from lckernels.backends.eager import overlap as eager


class Calls(TorchDispatchMode):
    """Counts the calls of torch's operators."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


def test_calls_of_eager_do_not_grow_with_the_chunks():
    """On a device without kernels each call is a launch."""

    def number_of_calls(total_len, weights):
        plan = plan_chunks([total_len], 16, 6)
        chunks, dout = torch.randn(plan.num_chunks, 16, 3), torch.randn(total_len, 3)
        if weights == "explicit":
            weights = torch.rand(plan.num_chunks, 16) + 0.5
        explicit = chunks if isinstance(weights, torch.Tensor) else None
        counts = []
        for call in (
            lambda: eager.overlap_merge(chunks, weights, plan.args),
            lambda: eager.overlap_merge_backward(dout, explicit, weights, plan.args),
            lambda: eager.overlap_split(dout, plan.args),
            lambda: eager.overlap_split_backward(chunks, plan.args),
        ):
            with Calls() as calls:
                call()
            counts.append(calls.number)
        return counts

    for weights in ("uniform", "triangular", "hann", "crop", "explicit"):
        few, many = number_of_calls(106, weights), number_of_calls(1006, weights)
        assert few == many and min(few) > 5, (weights, few, many)


@pytest.fixture
def fresh_warnings():
    registry._warn_of_eager.cache_clear()
    yield
    registry._warn_of_eager.cache_clear()


@pytest.mark.usefixtures("fresh_warnings")
@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_the_reference_in_place_of_a_kernel_is_a_warning(device):
    """Once for each op, device and dtype; it names what is missing."""

    def problem():
        return registry.Problem("windowed_attention", device, torch.float32, ((1, 8, 2, 4),) * 3)

    message = (
        rf"no kernel for windowed_attention on {device} in torch.float32; the reference runs "
        rf"\(backend='eager'\), slowly:\n  cpu: it supports tensors on the CPU, not on {device}\n  triton: "
    )
    with pytest.warns(UserWarning, match=message):
        assert registry.choose(problem()).name == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.choose(problem()).name == "eager", "the second call does not warn"


@pytest.mark.usefixtures("fresh_warnings")
def test_no_warning_where_eager_is_named_or_nothing_runs():
    problem = registry.Problem("overlap_merge", "xpu", torch.float32, ((2, 4, 1),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.choose(problem, "eager").name == "eager"
        assert registry.choose(problem, warn=False).name == "eager"
