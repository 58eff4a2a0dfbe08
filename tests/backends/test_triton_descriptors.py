"""Triton kernels that read whole tiles through tensor descriptors: the same bits as through addresses."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from helpers.backends import DEVICE, TESTED

import lckernels
from lckernels import Layout, Score

pytest.importorskip("triton", reason="Triton is not installed")

from lckernels.backends.triton import arguments, launch, tuned
from lckernels.backends.triton.tiles import TABLE, allowed, with_descriptors

pytestmark = pytest.mark.triton_all

by_the_kernels = pytest.mark.skipif(TESTED != "triton", reason="make test-triton tests the Triton kernels")
DTYPE = torch.float16 if launch.interpreted() else torch.bfloat16


Draw = Callable[..., torch.Tensor]  # a tensor of that shape


def three(*shape: int) -> Callable[[Draw], list[torch.Tensor]]:
    """q, k and v of one shape."""
    return lambda draw: [draw(*shape) for _ in range(3)]


@dataclass(frozen=True)
class Case:
    """A call, and how many have a descriptor: k and v in the forward, q and dout, k and v in the backward."""

    inputs: Callable[[Draw], list[torch.Tensor]]
    descriptors: int = 6
    window_size: tuple[int, int] = (200, 0)
    layout: Callable[[], Layout] = Layout
    score: Callable[[], Score] = Score


def packed() -> Layout:
    bounds = torch.tensor([0, 170, 171, 420], dtype=torch.int32, device=DEVICE)
    return Layout(cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=249, max_seqlen_k=249)


def masked() -> Layout:
    return Layout(kv_mask=torch.ones(1, 300, dtype=torch.bool, device=DEVICE))


def score() -> Score:
    bias = torch.linspace(-1, 1, 100, device=DEVICE).view(2, 50)
    return Score(20.0, bias, 40, torch.zeros(2, device=DEVICE))


CASES = {
    "groups": Case(lambda draw: [draw(1, 300, heads, 64) for heads in (4, 2, 2)]),
    "batch": Case(three(3, 300, 1, 16), window_size=(-1, 0)),
    "padded head dims": Case(lambda draw: [draw(1, 300, 2, dim) for dim in (40, 40, 72)], 6, (150, 150)),
    "fused": Case(lambda draw: list(draw(1, 300, 4, 3, 32).unbind(3))),
    "heads first": Case(lambda draw: [draw(2, 2, 300, 64).transpose(1, 2) for _ in range(3)]),
    "packed": Case(three(1, 420, 2, 32), layout=packed),
    "sink tokens": Case(three(1, 300, 2, 32), layout=lambda: Layout(sink_tokens=70)),
    "scores": Case(three(1, 300, 2, 32), score=score),
    "decode": Case(lambda draw: [draw(1, 1, 8, 32), draw(1, 1500, 2, 32), draw(1, 1500, 2, 32)], 6, (-1, 0)),
    "odd head dim": Case(three(1, 300, 2, 33), 0),
    "one odd head dim": Case(lambda draw: [draw(1, 300, 2, dim) for dim in (33, 33, 32)], 3),
    "odd begin": Case(lambda draw: [draw(1, 300, 2, 40)[..., 1:33] for _ in range(3)], 1),
    "expanded heads": Case(
        lambda draw: [draw(1, 300, 4, 32), *(draw(1, 300, 1, 32).expand(-1, -1, 4, -1) for _ in range(2))], 2
    ),
    "masked by key": Case(three(1, 300, 2, 32), 0, layout=masked),
}


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(DTYPE)


def solve(case: Case, inputs: list[torch.Tensor], dout: torch.Tensor) -> list[torch.Tensor]:
    """out and the gradients, of leaves that keep their strides."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = lckernels.windowed_attention(
        *leaves, window_size=case.window_size, layout=case.layout(), score=case.score(), backend="triton"
    )
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


@pytest.mark.cases(triton=lambda name: name in ("groups", "fused", "packed"))
@by_the_kernels
@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_as_through_addresses(name, monkeypatch):
    torch.manual_seed(0)
    case = CASES[name]
    inputs = case.inputs(draw)
    dout = draw(*inputs[0].shape[:3], inputs[2].shape[3])
    with tuned.trying(TABLE):
        want = solve(case, inputs, dout)
    made = []

    def counted(*args: object) -> object:
        made.append(launch.blocks(*args))
        return made[-1]

    monkeypatch.setattr(arguments, "blocks", counted)
    with tuned.trying(with_descriptors(TABLE)):
        got = solve(case, inputs, dout)
    assert sum(x is not None for x in made) == case.descriptors
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x, y)


@pytest.mark.triton
@by_the_kernels
@pytest.mark.skipif(not launch.interpreted(), reason="loads are counted in Triton's interpreter")
def test_whole_tiles_are_read_through_them(monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder

    loads = []
    load = InterpreterBuilder.create_descriptor_load

    def counted(*args: object) -> object:
        loads.append(args)
        return load(*args)

    monkeypatch.setattr(InterpreterBuilder, "create_descriptor_load", counted)
    inputs = three(1, 512, 1, 64)(draw)
    with tuned.trying(TABLE):
        solve(CASES["batch"], inputs, inputs[0])
    assert not loads
    with tuned.trying(with_descriptors(TABLE)):
        lckernels.windowed_attention(*inputs, window_size=(-1, 0), backend="triton")
    # Four tiles of 128 queries: the n-th sees 2 n tiles of 64 keys whole, each a tile of k and one of v.
    assert len(loads) == 2 * (0 + 2 + 4 + 6)


def test_passes_without_such_loops_have_none():
    described = with_descriptors(TABLE)
    assert described.keys() == TABLE.keys()
    for key, tiles in described.items():
        has_loops = key.kernel in ("forward", "backward_kv", "backward_q")
        assert tiles.descriptors == (has_loops and key.kind != "fp32")
        assert tiles._replace(descriptors=False) == TABLE[key] and allowed(key, tiles)
        assert not allowed(key._replace(kernel="chunked_forward"), tiles._replace(descriptors=True))
