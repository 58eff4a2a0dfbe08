"""Calls written for another library: clear errors and warnings, and the equivalents in the docstrings."""

import inspect
import re
import warnings

import pytest
import torch
import torch.nn.functional as F

from lckernels import Layout, Score, windowed_attention
from lckernels.arguments import _warn_once, _warn_once_of_rows
from lckernels.equivalents import EQUIVALENTS


@pytest.fixture
def qkv():
    return [torch.randn(2, 6, 4, 8) for _ in range(3)]


@pytest.mark.parametrize("name", EQUIVALENTS)
def test_an_argument_of_another_library_names_the_equivalent(qkv, name):
    with pytest.raises(TypeError) as raised:
        windowed_attention(*qkv, **{name: 1})
    assert str(raised.value) == f"windowed_attention: got the argument {name!r}; use {EQUIVALENTS[name]}"


def test_other_type_errors_stay(qkv):
    with pytest.raises(TypeError, match="unexpected keyword argument 'windows'"):
        windowed_attention(*qkv, windows=3)
    with pytest.raises(TypeError, match=r"v: got NoneType; expected a torch\.Tensor"):
        windowed_attention(qkv[0], qkv[1], None, window_size=(1, 0))


def test_fields_of_groups_are_named(qkv):
    with pytest.raises(TypeError, match=r"'kv_mask'; use layout=Layout\(kv_mask=\.\.\.\)"):
        windowed_attention(*qkv, kv_mask=None)
    with pytest.raises(TypeError, match=r"'rel_bias'; use score=Score\(rel_bias=\.\.\.\)"):
        windowed_attention(*qkv, rel_bias=None)


def test_the_signature_is_that_of_the_function():
    parameters = inspect.signature(windowed_attention).parameters
    assert list(parameters)[:4] == ["q", "k", "v", "window_size"] and parameters["backend"].default is None
    assert not parameters.keys() & EQUIVALENTS.keys()


def test_packed_tensors_without_a_batch(qkv):
    with pytest.raises(ValueError, match=r"got shape \(6, 4, 8\); .*pass q\[None\], k\[None\] and v\[None\]"):
        windowed_attention(*(x[0] for x in qkv))


def test_tensors_with_heads_first_warn_once():
    _warn_once.cache_clear()
    q, k = torch.randn(1, 4, 130, 8), torch.randn(1, 2, 130, 8)
    with pytest.warns(UserWarning, match=r"4 positions of 130 heads: .* q.transpose\(1, 2\)") as caught:
        windowed_attention(q, k, k)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        windowed_attention(q, k, k)


@pytest.mark.parametrize(
    ("q", "k"),
    [
        ((1, 4, 128, 8), (1, 4, 128, 8)),  # as many heads as a model may have
        ((1, 1, 256, 8), (1, 1, 2, 8)),  # grouped
        ((1, 129, 130, 8), (1, 129, 130, 8)),  # more positions than a model has heads
        ((1, 1, 130, 8), (1, 9, 130, 8)),  # a decode step
    ],
)
def test_no_warning_where_the_shapes_may_be_right(q, k):
    _warn_once.cache_clear()
    k = torch.randn(k)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        windowed_attention(torch.randn(q), k, k)


@pytest.mark.parametrize("seqlen_q", [3, 6])
def test_offset_0_is_the_alignment_of_torch(qkv, seqlen_q):
    q, k, v = qkv
    q = q[:, :seqlen_q]
    out = windowed_attention(q, k, v, window_size=(-1, 0), layout=Layout(offset=0))
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True)
    torch.testing.assert_close(out, expected.transpose(1, 2))


def test_alibi_as_in_the_docstring_of_score(qkv):
    q, k, v = qkv
    num_heads, N = 4, 6
    slopes = 2.0 ** (-8 * torch.arange(1, num_heads + 1) / num_heads)
    alibi = Score(rel_bias=slopes[:, None] * torch.arange(1 - N, 1), bias_center=N - 1)
    out = windowed_attention(q, k, v, window_size=(-1, 0), score=alibi)
    distance = torch.arange(N) - torch.arange(N)[:, None]
    mask = (slopes[:, None, None] * distance).masked_fill(distance > 0, -torch.inf)
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask)
    torch.testing.assert_close(out, expected.transpose(1, 2))


def test_max_seqlen_does_not_change_results():
    q = torch.randn(1, 10, 2, 8)
    bounds = torch.tensor([0, 4, 10])
    outs = [
        windowed_attention(
            q, q, q, layout=Layout(cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=n, max_seqlen_k=n)
        )
        for n in (None, 1, 6, 99)
    ]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=0, atol=0)


SEES_NO_KEY = {
    "grouped heads first": ((1, 8, 100, 64), (1, 2, 100, 64), (-1, 0), None, True),
    "more queries": ((1, 9, 2, 8), (1, 5, 2, 8), (3, 2), None, True),
    "a window that reaches": ((1, 9, 2, 8), (1, 5, 2, 8), (3, 4), None, False),
    "no bound on the right": ((1, 9, 2, 8), (1, 5, 2, 8), (3, -1), None, False),
    "an offset": ((1, 9, 2, 8), (1, 5, 2, 8), (-1, 0), Layout(offset=0), False),
    "another part of the layout": ((1, 9, 2, 8), (1, 5, 2, 8), (-1, 0), Layout(sink_tokens=1), True),
    "as many keys": ((1, 5, 2, 8), (1, 5, 2, 8), (-1, 0), None, False),
}


@pytest.mark.parametrize("case", SEES_NO_KEY)
def test_rows_without_keys_by_the_default_offset_warn_once(case):
    shape_q, shape_k, window, layout, warned = SEES_NO_KEY[case]
    q, k = torch.randn(shape_q), torch.randn(shape_k)
    _warn_once_of_rows.cache_clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        out = windowed_attention(q, k, k, window_size=window, layout=layout)
        windowed_attention(q, k, k, window_size=window, layout=layout)
    assert len(found) == warned and all(warning.filename == __file__ for warning in found)
    if warned:
        count = int(re.search(r"the first (\d+) queries see no key", str(found[0].message)).group(1))
        assert not out[:, :count].any() and out[:, count].any()
