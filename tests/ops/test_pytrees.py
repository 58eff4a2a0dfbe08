"""Plan, Layout, Score and ExtraTokens are pytrees: tree functions, arguments of exported models."""

import io
from dataclasses import fields

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

import lckernels
from lckernels import ExtraTokens, Layout, Plan, Score


def plan() -> Plan:
    rows = [[0, 0, 0, 6], [1, 0, 4, 6]]
    return Plan.from_segments(rows, num_chunks=2, chunk_len=6, total_len=10)


def layout() -> Layout:
    return Layout(offset=2, kv_start=torch.tensor([0, 3]), sink_tokens=1, chunk_origin=torch.tensor([1, 2]))


def score() -> Score:
    return Score(softcap=5.0, rel_bias=torch.arange(8.0).view(2, 4), bias_center=3)


def extra() -> ExtraTokens:
    return ExtraTokens(*(torch.full((2, 1, 2, 4), float(i)) for i in range(3)))


VALUES = {"Plan": plan, "Layout": layout, "Score": score, "ExtraTokens": extra}


def assert_same(got, expected):
    assert type(got) is type(expected)
    for field in fields(expected):
        x, y = getattr(got, field.name), getattr(expected, field.name)
        assert type(x) is type(y)
        assert torch.equal(x, y) if isinstance(y, torch.Tensor) else x == y


@pytest.mark.parametrize("name", VALUES)
def test_flattened_and_back(name):
    value = VALUES[name]()
    leaves, tree = tree_flatten(value)
    present = [getattr(value, field.name) for field in fields(value)]
    assert [id(x) for x in leaves] == [id(x) for x in present if x is not None]
    assert_same(tree_unflatten(leaves, tree), value)


@pytest.mark.parametrize("name", VALUES)
def test_to_another_device(name):
    value = VALUES[name]()
    moved = tree_map_only(torch.Tensor, lambda x: x.to("meta"), {"in a dict": [value]})["in a dict"][0]
    for field in fields(value):
        x, y = getattr(moved, field.name), getattr(value, field.name)
        assert x.device.type == "meta" if isinstance(y, torch.Tensor) else x == y


class Attention(torch.nn.Module):
    def forward(self, q, k, v, layout, score):
        return lckernels.windowed_attention(q, k, v, window_size=(3, 0), layout=layout, score=score)


class Merge(torch.nn.Module):
    def forward(self, x, plan):
        split = lckernels.overlap_split(x, plan)
        return lckernels.overlap_merge(split * split, plan)


class Chunked(torch.nn.Module):
    def forward(self, q, plan, extra):
        return lckernels.chunked_attention(q, q, q, plan, extra=extra)


MODELS = {
    "attention": (Attention(), lambda: (*(torch.randn(2, 7, 2, 4) for _ in range(3)), layout(), score())),
    "merge": (Merge(), lambda: (torch.randn(10, 3), plan())),
    "chunked": (Chunked(), lambda: (torch.randn(10, 2, 4), plan(), extra())),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_arguments_of_an_exported_model(name, strict):
    """The program takes other tensors; it is saved and loaded without its example inputs."""
    model, arguments = MODELS[name]
    torch.manual_seed(0)
    program = torch.export.export(model, arguments(), strict=strict)
    program.example_inputs = None  # pickled, which torch.load of weights does not allow
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    given = tree_map_only(torch.Tensor, lambda x: x.clone(), arguments())
    for exported in (program, torch.export.load(file)):
        torch.testing.assert_close(exported.module()(*given), model(*given), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_arguments_of_a_compiled_model(name):
    model, arguments = MODELS[name]
    torch.manual_seed(0)
    given = arguments()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*given), model(*given), rtol=0, atol=0)


def test_a_tree_within_a_compiled_function():
    @torch.compile(backend="aot_eager", fullgraph=True)
    def run(x, plan):
        return lckernels.overlap_split(x, tree_map_only(torch.Tensor, lambda t: t + 0, plan))

    x = torch.randn(10, 3)
    assert torch.equal(run(x, plan()), lckernels.overlap_split(x, plan()))


@pytest.mark.parametrize(
    "given", [Layout(), Layout(offset=1), Layout(chunk=3), Layout(kv_start=torch.tensor([0, 2]))]
)
def test_the_guards_of_an_exported_layout(given):
    class Model(torch.nn.Module):
        def forward(self, q, layout):
            return lckernels.windowed_attention(q, q, q, layout=layout)

    q = torch.randn(2, 6, 2, 8)
    exported = torch.export.export(Model(), (q, given)).module()
    torch.testing.assert_close(exported(q, given), Model()(q, given), rtol=0, atol=0)
