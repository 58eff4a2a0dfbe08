"""The attention function and mask of transformers' interface: same results, no N x N mask, model restored."""

# ruff: noqa: E402
import threading

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers import fresh_python
from helpers.encoder_models import FAMILIES, pad, tiny, token_ids
from helpers.hf_calls import counted_attention
from transformers.masking_utils import bidirectional_mask_function

from lckernels.hf import NAME
from lckernels.hf.interface import attention
from lckernels.hf.masks.create import create_mask
from lckernels.hf.masks.key_mask import KeyMask
from lckernels.hf.masks.padding import padding_layout
from lckernels.hf.patch.modules import lckernels_attention
from lckernels.hf.support import unsupported_reasons

WITH_INTERFACE = [family for family in FAMILIES if family != "mpnet"]
LENGTHS = (30, 9, 20)


def batch(padding):
    if padding == "none":
        return torch.stack([token_ids(30, seed) for seed in range(3)]), None
    ids, mask = pad([token_ids(n) for n in LENGTHS], "left" if padding == "left" else "right")
    if padding == "middle":
        mask[:, 4:7] = 0
    return ids, mask


def states(model, ids, mask):
    """The states of every layer, without padding."""
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    tokens = slice(None) if mask is None else mask.bool()
    return [state[tokens] for state in output.hidden_states]


@pytest.mark.parametrize("family", WITH_INTERFACE)
@pytest.mark.parametrize("padding", ["none", "right", "left", "middle"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_same_states_as_transformers(family, padding, implementation, monkeypatch):
    calls = counted_attention(monkeypatch)
    model, (ids, mask) = tiny(family), batch(padding)
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        expected = states(model, ids, mask)
        calls.clear()
        with lckernels_attention(model):
            ours = states(model, ids, mask)
    assert len(calls) == 2
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    model, (ids, mask) = tiny(), batch("right")
    with torch.no_grad():
        exact = states(model.double(), ids, mask)
        model.to(dtype)
        honest = states(model, ids, mask)
        with lckernels_attention(model):
            ours = states(model, ids, mask)
    for state, torchs, truth in zip(ours, honest, exact, strict=True):
        assert state.dtype == dtype
        allowed = 2 * (torchs.double() - truth).abs().max() + 1e-9
        assert (state.double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_gradients_and_checkpointing(reentrant):
    model, (ids, mask) = tiny().double(), batch("left")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    target = torch.randn(3, 30, 16, dtype=torch.float64)

    def gradients(within):
        model.zero_grad()
        if within:
            with lckernels_attention(model):
                output = model(ids, attention_mask=mask).last_hidden_state
        else:
            output = model(ids, attention_mask=mask).last_hidden_state
        # The backward, which recomputes a checkpointed layer, runs outside of the context.
        (output * target * mask[..., None]).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    truth = gradients(within=False)
    model.train()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        # A reentrant checkpoint requires an input with a gradient.
        model.enable_input_require_grads()
    ours = gradients(within=True)
    assert ours.keys() == truth.keys()
    for name in truth:
        torch.testing.assert_close(ours[name], truth[name], rtol=1e-9, atol=1e-9, msg=name)


def test_dropout_in_training():
    model, (ids, mask) = tiny().train(), batch("right")
    with lckernels_attention(model), torch.no_grad():
        one, other = (states(model, ids, mask)[-1] for _ in range(2))
        torch.manual_seed(7)
        again = states(model, ids, mask)[-1]
        torch.manual_seed(7)
        torch.testing.assert_close(states(model, ids, mask)[-1], again)
    assert not torch.allclose(one, other)


def attributes(model):
    return [{name: id(value) for name, value in module.__dict__.items()} for module in model.modules()]


def test_the_model_is_restored():
    model, ids = tiny(), token_ids(30)[None]
    model.gradient_checkpointing_enable()
    before, config = attributes(model), model.config.to_dict()
    with (
        pytest.raises(RuntimeError, match="stop"),
        lckernels_attention(model, piece_tokens=4),
        lckernels_attention(model),
    ):
        model(ids)
        raise RuntimeError("stop")
    assert attributes(model) == before
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == "sdpa"


def test_a_model_with_the_same_config_does_not_change(monkeypatch):
    calls, model, ids = counted_attention(monkeypatch), tiny(), token_ids(30)[None]
    config = model.config
    other = transformers.BertModel(config).eval()
    with lckernels_attention(model), torch.no_grad():
        assert all(m.config is config for m in model.modules() if hasattr(m, "config"))
        assert config._attn_implementation == "sdpa"
        other(ids)
        assert not calls
        model(ids)
        assert len(calls) == 2


def test_threads_share_a_model(monkeypatch):
    calls, model, ids = counted_attention(monkeypatch), tiny(), token_ids(30)[None]
    before, inside, leave = attributes(model), threading.Event(), threading.Event()

    def wait():
        with lckernels_attention(model):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=wait)
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        with lckernels_attention(model):
            thread.start()
            assert inside.wait(10)
            torch.testing.assert_close(model(ids).last_hidden_state, expected)
            assert len(calls) == 2
        # The other thread is still in its context.
        assert torch.equal(model(ids).last_hidden_state, expected)
        assert len(calls) == 2
        leave.set()
        thread.join()
    assert attributes(model) == before


def test_feed_forward_in_pieces():
    for family in WITH_INTERFACE:
        model, ids = tiny(family), token_ids(30)[None]
        widths = []
        linear = next(m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 24)
        linear.register_forward_pre_hook(lambda module, args, widths=widths: widths.append(args[0].shape[1]))
        with torch.no_grad():
            expected = model(ids).last_hidden_state
            widths.clear()
            with lckernels_attention(model, piece_tokens=8):
                ours = model(ids).last_hidden_state
        assert widths == [8, 8, 8, 6], family
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["none", "right", "left", "middle"])
def test_no_dense_mask_is_allocated(padding):
    _, mask = batch(padding)
    mask = None if mask is None else mask.bool()
    made = create_mask(
        3, 30, 30, mask_function=bidirectional_mask_function, attention_mask=mask, device=torch.device("cpu")
    )
    assert isinstance(made, KeyMask)
    assert tuple(made.shape) == (3, 1, 30, 30)
    assert made.untyped_storage().nbytes() == 0
    where = made.visible
    given = {name for name in ("kv_start", "kv_end", "kv_mask") if getattr(where, name) is not None}
    bounds = {"kv_start", "kv_end"}
    assert given == {"none": set(), "right": bounds, "left": bounds, "middle": {*bounds, "kv_mask"}}[padding]
    valid = torch.ones(3, 30, dtype=torch.bool) if mask is None else mask
    assert torch.equal(made.dense(), valid[:, None, None, :].expand(3, 1, 30, 30))


def test_rows_without_a_valid_key():
    where = padding_layout(torch.tensor([[False, False, False], [False, True, False]]))
    assert where.kv_start.tolist() == [0, 1]
    assert where.kv_end.tolist() == [0, 2]
    assert where.kv_mask is None


def key_mask(seqlen=4):
    valid = torch.arange(seqlen)[None] < 3
    return create_mask(
        1, seqlen, seqlen, mask_function=bidirectional_mask_function, attention_mask=valid, device="cpu"
    )


class Bare(torch.nn.Module):
    """A module as transformers passes it to an attention function."""

    is_causal = False


@pytest.mark.parametrize("kind", ["4-D bool", "4-D float", "no mask", "causal", "position_bias"])
def test_unsupported_masks_run_as_dense_attention(kind):
    q, k, v = (torch.randn(1, 2, 4, 8) for _ in range(3))
    module, options = Bare(), {}
    seen = torch.ones(4, 4, dtype=torch.bool)
    mask, scores = None, torch.zeros(2, 4, 4)
    if kind == "4-D bool":
        seen = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]]).bool()
        mask = seen[None, None]
    elif kind == "4-D float":
        scores = torch.randn(2, 4, 4)
        mask = scores[None]
    elif kind == "causal":
        module.is_causal, seen = True, torch.tril(seen)
    elif kind == "position_bias":
        scores, mask = torch.randn(2, 4, 4), key_mask()
        options["position_bias"], seen = scores[None], mask.dense()[0, 0]
    out, weights = attention(module, q, k, v, mask, scaling=0.3, **options)
    dense = (0.3 * q @ k.mT + scores).masked_fill(~seen, -torch.inf).softmax(-1) @ v
    assert weights is None
    torch.testing.assert_close(out, dense.transpose(1, 2))


@pytest.mark.parametrize("name", ["sinks", "indices", "block_indices"])
def test_unsupported_options_are_errors(name):
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(
        ValueError, match=f"{name}: got Tensor; attn_implementation='lckernels' does not support"
    ):
        attention(Bare(), q, q, q, key_mask(), **{name: torch.ones(2)})


def test_attn_implementation_by_name():
    model, (ids, mask) = tiny(), batch("right")
    with torch.no_grad():
        expected = states(model, ids, mask)
        model.set_attn_implementation(NAME)
        torch.testing.assert_close(states(model, ids, mask), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["none", "right", "middle"])
def test_compiled(padding):
    model, (ids, mask) = tiny(), batch(padding)
    model.set_attn_implementation(NAME)
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(str(graph.graph))
        return graph

    with torch.no_grad():
        expected = model(ids, mask).last_hidden_state
        ours = torch.compile(model, backend=keep, fullgraph=True)(ids, mask).last_hidden_state
    tokens = slice(None) if mask is None else mask.bool()
    torch.testing.assert_close(ours[tokens], expected[tokens])
    assert "lckernels.windowed_attention" in graphs[0]


def test_unsupported_reasons():
    assert unsupported_reasons(tiny()) == []
    assert unsupported_reasons(torch.nn.Linear(1, 1)) == ["it is no model of transformers"]
    assert "MPNetModel does not go through" in unsupported_reasons(tiny("mpnet"))[0]
    config = tiny().config
    config._attn_implementation, config.output_attentions = "eager", True
    assert "output_attentions" in unsupported_reasons(transformers.BertModel(config))[0]


def test_importing_lckernels_hf_registers_the_name():
    code = (
        "import lckernels, transformers\n"
        "assert 'lckernels' not in transformers.AttentionInterface._global_mapping\n"
        "assert 'lckernels' not in transformers.AttentionMaskInterface._global_mapping\n"
        "import lckernels.hf\n"
        "assert 'lckernels' in transformers.AttentionInterface._global_mapping\n"
        "assert 'lckernels' in transformers.AttentionMaskInterface._global_mapping\n"
    )
    done = fresh_python.run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["hf", "hf.interface", "hf.patch", "hf.patch.dry_run"])
def test_the_error_names_a_missing_extra(module):
    code = f"import sys\nsys.modules['transformers'] = None\nimport lckernels.{module}"
    result = fresh_python.run(code)
    said = "ImportError: this needs transformers, which is not installed: pip install 'lckernels[hf]'"
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == said


def test_compiled_in_a_context_after_an_inner_one_has_ended():
    model, ids, graphs = tiny(), token_ids(30)[None], []

    def keep(graph, _):
        graphs.append(str(graph.graph))
        return graph

    torch._dynamo.reset()
    with lckernels_attention(model), torch.no_grad():
        with lckernels_attention(model):
            pass
        expected = model(ids).last_hidden_state
        compiled = torch.compile(model, backend=keep, fullgraph=True)(ids).last_hidden_state
    torch.testing.assert_close(compiled, expected)
    assert "scaled_dot_product_attention" not in graphs[0] and "windowed_attention" in graphs[0]


def test_contexts_that_end_in_the_order_of_their_entry(monkeypatch):
    calls, model, ids = counted_attention(monkeypatch), tiny(), token_ids(30)[None]
    before = attributes(model)
    first, second = lckernels_attention(model), lckernels_attention(model)
    with torch.no_grad():
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        model(ids)
        assert len(calls) == 2
        second.__exit__(None, None, None)
        model(ids)
    assert len(calls) == 2 and attributes(model) == before
