"""torch's FlopCounterMode counts the attention ops: the matrix products of the visible pairs."""

import pytest
import torch
from helpers import fresh_python
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import lckernels
from lckernels import ExtraTokens, Layout, reference
from lckernels.visible import visible_pairs

BATCH, SEQLEN, HEADS, KV_HEADS, DIM, DIM_V = 2, 24, 4, 2, 8, 6
PER_PAIR = 2 * HEADS * (DIM + DIM_V), 2 * HEADS * (3 * DIM + 2 * DIM_V)  # forward, backward


def tensors(**options):
    shapes = ((HEADS, DIM), (KV_HEADS, DIM), (KV_HEADS, DIM_V))
    return [torch.randn(BATCH, SEQLEN, *shape, requires_grad=True, **options) for shape in shapes]


def counted(function, *inputs):
    """FLOPs of the forward, and of the backward."""
    with FlopCounterMode(display=False) as forward:
        out = function(*inputs)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def test_full_attention_counts_as_in_torch():
    """Without a window: the count of the same products as matrix products, and of their autograd."""
    q, k, v = (torch.randn(BATCH, SEQLEN, HEADS, DIM, requires_grad=True) for _ in range(3))

    def products(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return (q @ k.mT).softmax(-1) @ v

    forward, backward = counted(lambda *x: lckernels.windowed_attention(*x), q, k, v)
    expected, expected_backward = counted(products, q, k, v)
    assert forward == expected
    assert backward == expected_backward + expected // 2, "the scores are computed again"


@pytest.mark.parametrize(
    ("window_size", "layout"),
    [
        ((5, 0), Layout()),
        ((-1, 0), Layout(sink_tokens=2, chunk=7)),
        ((5, 5), Layout(kv_start=torch.tensor([0, 9]), kv_end=torch.tensor([20, 24]))),
        ((-1, 0), Layout(segment_ids=(torch.arange(SEQLEN) // 5).expand(BATCH, -1))),
        (
            (-1, 3),
            Layout(kv_mask=torch.rand(BATCH, SEQLEN, generator=torch.Generator().manual_seed(0)) < 0.5),
        ),
    ],
)
@pytest.mark.parametrize("backend", [None, "eager"])
def test_visible_pairs_alone(window_size, layout, backend):
    def run(*inputs):
        return lckernels.windowed_attention(*inputs, window_size=window_size, layout=layout, backend=backend)

    p = reference.key_positions(BATCH, SEQLEN, SEQLEN, layout, torch.device("cpu"))
    pairs = int(reference.visible_keys(p, SEQLEN, window_size, layout).sum())
    assert counted(run, *tensors()) == (pairs * PER_PAIR[0], pairs * PER_PAIR[1])


def test_packed_input():
    bounds = torch.tensor([0, 10, 11, 24])
    layout = Layout(cu_seqlens_q=bounds, cu_seqlens_k=bounds)
    pairs = 10 * 11 // 2 + 1 + 13 * 14 // 2
    inputs = [x[:1].detach().requires_grad_() for x in tensors()]
    run = lambda *x: lckernels.windowed_attention(*x, window_size=(-1, 0), layout=layout)  # noqa: E731
    assert counted(run, *inputs) == (pairs * PER_PAIR[0], pairs * PER_PAIR[1])


@pytest.mark.parametrize("num_extra", [0, 2])
def test_chunks(num_extra):
    plan = lckernels.Plan.from_segments(
        [[0, 1, 0, 10], [1, 0, 8, 12], [2, 0, 16, 8]], num_chunks=3, chunk_len=12, total_len=SEQLEN
    )
    q, k, v = (x[0].detach().requires_grad_() for x in tensors())
    extra = None
    if num_extra:
        extra = ExtraTokens(*(torch.randn(3, num_extra, *x.shape[1:]) for x in (q, k, v)))

    def run(q, k, v):
        out = lckernels.chunked_attention(q, k, v, plan, extra=extra)
        return out if extra is None else out[0]

    pairs = sum((length + num_extra) ** 2 for length in (10, 12, 8))
    assert counted(run, q, k, v) == (pairs * PER_PAIR[0], pairs * PER_PAIR[1])


def test_fake_tensors():
    """A memory estimate counts too; values that a fake tensor lacks hide no key."""
    pairs = BATCH * visible_pairs(SEQLEN, SEQLEN, (5, 0))
    with FakeTensorMode():
        layout = Layout(kv_start=torch.zeros(BATCH, dtype=torch.int32))
        run = lambda *x: lckernels.windowed_attention(*x, window_size=(5, 0), layout=layout)  # noqa: E731
        assert counted(run, *tensors()) == (pairs * PER_PAIR[0], pairs * PER_PAIR[1])
    run = lambda *x: lckernels.windowed_attention(*x, window_size=(5, 0))  # noqa: E731
    assert counted(run, *tensors(device="meta")) == (pairs * PER_PAIR[0], pairs * PER_PAIR[1])


COUNT = """
q = torch.randn(1, 8, 2, 4)
with FlopCounterMode(display=False) as counter:
    lckernels.windowed_attention(q, q, q)
print(counter.get_total_flops())
"""


def test_a_search_for_the_counter_before_its_import():
    code = (
        "import importlib.util, torch, lckernels\n"
        "assert importlib.util.find_spec('torch.utils.flop_counter').name == 'torch.utils.flop_counter'\n"
        "from torch.utils.flop_counter import FlopCounterMode\n"
    )
    done = fresh_python.run(code + COUNT)
    assert done.stdout.split() == [str(2 * 8 * 8 * 2 * 8)], done.stderr


@pytest.mark.parametrize("first", ["lckernels", "torch.utils.flop_counter"])
def test_the_order_of_imports(first):
    """torch's counter is not imported with lckernels, and counts whichever is imported first."""
    code = (
        f"import {first}, sys\n"
        f"print({first!r} == 'lckernels' and 'torch.utils.flop_counter' in sys.modules)\n"
        "import torch, lckernels\nfrom torch.utils.flop_counter import FlopCounterMode\n"
    )
    done = fresh_python.run(code + COUNT)
    assert done.stdout.split() == ["False", str(2 * 8 * 8 * 2 * 8)], done.stderr
