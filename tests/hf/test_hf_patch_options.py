"""Options of lckernels.patch and of calls of a patched model, and the errors of unsupported ones."""

# ruff: noqa: E402
import warnings

import numpy
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_calls import served_runs
from helpers.hf_masks import LargestTensor
from helpers.hf_models import VOCAB
from helpers.hf_patched import IDS, MASK, VALID, attributes, close, logits, model_of

import lckernels
import lckernels.hf.interface
import lckernels.hf.warn
from lckernels import Score
from lckernels.hf import NAME
from lckernels.hf.masks.create import key_mask
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.kinds import Kind
from lckernels.hf.settings import SETTINGS, LayerSettings, settings_of
from lckernels.reference import windowed_attention as reference

pytestmark = pytest.mark.usefixtures("one_thread")


def test_attention_weights_run_as_eager_with_a_warning():
    model = model_of("gpt_oss")
    options = {"input_ids": IDS, "attention_mask": MASK, "output_attentions": True}
    with torch.no_grad():
        expected = model(**options).attentions
        lckernels.patch(model)
        lckernels.hf.warn._warn.cache_clear()
        with pytest.warns(
            UserWarning, match="output_attentions requires all attention weights; these calls run as eager"
        ):
            ours = model(**options).attentions
    assert len(ours) == len(expected) == 2
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one.transpose(1, 2)[VALID], other.transpose(1, 2)[VALID])


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("kind", ["added", "bool"])
def test_a_4d_mask_runs_as_dense_attention_with_a_warning(name, kind):
    model = model_of(name)
    seen = torch.rand(2, 1, 21, 21, generator=torch.Generator().manual_seed(1)) < 0.6
    seen |= torch.eye(21, dtype=torch.bool)
    added = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
    expected = logits(model, input_ids=IDS, attention_mask=added)
    lckernels.patch(model)
    lckernels.hf.warn._warn.cache_clear()
    with pytest.warns(UserWarning, match="a dense 4-D mask runs as dense attention"):
        ours = logits(model, input_ids=IDS, attention_mask=added if kind == "added" else seen)
    close(ours, expected, slice(None))


def test_a_mask_of_a_wrong_shape_is_an_error():
    q = torch.randn(2, 4, 5, 8)
    mask = key_mask(2, 5, 7)
    said = r"attention_mask: got shape \(2, 1, 5, 7\); expected \(2, 1, 5, 5\)"
    with pytest.raises(NotServed, match=said):
        lckernels.hf.interface.attention(torch.nn.Identity(), q, q, q, mask)
    sinks = torch.zeros(1, 4)
    with pytest.raises(NotServed, match=r"s_aux: got shape \(1, 4\); expected \(num_heads,\) = \(4,\)"):
        lckernels.hf.interface.attention(torch.nn.Identity(), q, q, q, None, s_aux=sinks)


def test_a_config_with_output_attentions_is_an_error():
    model = model_of("mistral")
    model.config.output_attentions = True
    with pytest.raises(ValueError, match=r"model: got a config with output_attentions=True; only eager"):
        lckernels.patch(model)


def test_dropout_in_training():
    model = model_of("mistral")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.4
    lckernels.patch(model)
    plain = logits(model)
    model.train()
    drawn = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        drawn.append(logits(model))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.allclose(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], plain)


@pytest.mark.parametrize(
    ("name", "window", "expected"),
    [
        ("llama", 4, (3, 0)),
        ("llama", (4, 2), (4, 0)),
        ("llama", (-1, 5), (-1, 0)),
        ("bert", 5, (2, 2)),
        ("bert", (4, 1), (4, 1)),
    ],
)
@pytest.mark.parametrize("sinks", [0, 2])
def test_a_window_is_the_argument_of_the_op(name, window, expected, sinks, monkeypatch):
    """The layers pass this window and these sinks to the op; the report is not exact."""
    runs, model = served_runs(monkeypatch), model_of(name)
    if expected == (-1, 0):
        with pytest.raises(TypeError, match=r"the window \(-1, 5\) has no bound in its layers"):
            lckernels.patch(model, window=window, sink_tokens=sinks)
        return
    if sinks and name == "bert":
        with pytest.raises(
            ValueError, match="sink_tokens: got 2 for a model with bidirectional layers alone"
        ):
            lckernels.patch(model, window=window, sink_tokens=sinks)
        return
    report = lckernels.patch(model, window=window, sink_tokens=sinks)
    logits(model)
    assert [(run.window, run.call.layout.sink_tokens) for run in runs] == [(expected, sinks)] * 2
    for run in runs:
        inputs = (x.transpose(1, 2) for x in (run.query, run.key, run.value))
        options = {"layout": run.call.layout, "score": run.call.score or Score()}
        want = reference(*inputs, window_size=run.window, softmax_scale=run.scaling, **options)[0]
        torch.testing.assert_close(run.out, want)
    assert {row.window for row in report.rows} == {expected}
    assert not report.exact
    assert all(row.verdict.startswith("approximate: ") for row in report.rows)


def test_a_window_does_not_change_cross_attention_and_other_windows():
    report = lckernels.patch(model_of("bart"), window=4)
    assert [(row.kind, row.window) for row in report.rows] == [
        ("bidirectional window", (2, 2)), ("causal window", (3, 0)), ("cross", (-1, -1)),
    ]  # fmt: skip
    report = lckernels.patch(model_of("gpt_oss"), window=3)
    assert [row.window for row in report.rows] == [(5, 0), (2, 0)]
    assert [row.verdict for row in report.rows] == ["exact", "approximate: causal attention with a window"]


def test_a_window_does_not_change_cross_attention_found_at_the_first_call(monkeypatch):
    runs = served_runs(monkeypatch)

    class Reads(transformers.BartModel):
        def forward(self, input_ids, **options):
            return super().forward(input_ids + 0 * int(input_ids.max()), **options)

    model = model_of("bart")
    model.model.__class__ = Reads
    report = lckernels.patch(model, window=4)
    assert report.unknown and not report.exact
    assert [row.verdict for row in report.rows] == [  # encoder and decoder run alone, without cross attention
        "approximate: bidirectional attention with a window",
        "approximate: causal attention with a window",
        "approximate if full, known at its first call",
    ]
    for _ in range(2):
        logits(model, input_ids=IDS, attention_mask=MASK, decoder_input_ids=IDS[:, :9])
    assert [run.window for run in runs] == [(2, 2), (3, 0), (-1, -1)] * 2


def test_a_window_of_a_query_without_a_mask():
    """A single query of a causal layer sees W keys, also in a call without a mask."""
    q, k, v = (torch.randn(1, 2, seqlen, 8) for seqlen in (1, 9, 9))
    layer = torch.nn.Identity()
    setattr(layer, SETTINGS, LayerSettings(window=4, kind=Kind((-1, 0))))
    out, _ = lckernels.hf.interface.attention(layer, q, k, v, None)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, -4:], v[:, :, -4:])
    torch.testing.assert_close(out, expected.transpose(1, 2))


def test_a_window_in_generate():
    model = model_of("llama")
    lckernels.patch(model, window=5, sink_tokens=1)
    options = {"attention_mask": MASK, "max_new_tokens": 8, "do_sample": False}
    expected = model.generate(IDS, use_cache=False, **options)
    for given in ({}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}):
        assert torch.equal(model.generate(IDS, **given, **options), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window: got 0; expected an int >= 1"),
        ({"window": (-1, -1)}, r"window: got \(-1, -1\); it has no bound; expected None"),
        ({"window": (1, 2, 3)}, r"window: got \(1, 2, 3\); expected"),
        ({"window": (1, -2)}, r"window\[1\]: got -2; expected an int >= -1"),
        ({"window": [1, -2]}, r"window\[1\]: got -2; expected an int >= -1"),
        ({"sink_tokens": 2}, "sink_tokens: got 2; sink tokens require a window; window is None"),
        ({"window": 4, "sink_tokens": -1}, "sink_tokens: got -1; expected an int >= 0"),
        ({"positions": "cache"}, "positions: got 'cache'; it requires a window; window is None"),
        ({"backend": "fast"}, "backend: got 'fast'; allowed are "),
    ],
)
def test_bad_arguments(options, message):
    model = model_of("llama")
    before = attributes(model)
    with pytest.raises(ValueError, match=message):
        lckernels.patch(model, **options)
    assert attributes(model) == before


@pytest.mark.parametrize("value", [2.5, True, numpy.True_, "4"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("window", lambda x: {"window": x}),
        (r"window\[0\]", lambda x: {"window": (x, 0)}),
        ("sink_tokens", lambda x: {"window": 4, "sink_tokens": x}),
    ],
)
def test_sizes_are_integers(name, options, value):
    with pytest.raises(TypeError, match=f"{name}: got {value!r}; expected an int >= "):
        lckernels.patch(model_of("llama"), **options(value))


def test_sizes_of_numpy():
    model, of_numpy = model_of("llama"), model_of("llama")
    of_numpy.load_state_dict(model.state_dict())
    lckernels.patch(model, window=(5, 0), sink_tokens=1)
    lckernels.patch(of_numpy, window=(numpy.int64(5), numpy.int32(0)), sink_tokens=numpy.uint8(1))
    with torch.no_grad():
        assert torch.equal(of_numpy(IDS).logits, model(IDS).logits)
    settings = next(x for x in map(settings_of, of_numpy.modules()) if x.window)
    assert [type(x) for x in (*settings.window, settings.sink_tokens)] == [int] * 3


class Pipeline:
    """Like a pipeline of transformers, an object that holds a model."""

    model = torch.nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gpt2", "got str; expected a model of transformers, as AutoModel.from_pretrained loads it$"),
        (Pipeline(), "got Pipeline; expected a model of transformers; pass its attribute model$"),
        (transformers.LlamaConfig(), "got LlamaConfig; expected a model of transformers$"),
        (
            transformers.LlamaForCausalLM,
            "got the class LlamaForCausalLM; expected a model of transformers, an instance of it$",
        ),
        (None, "got NoneType; expected a model of transformers$"),
    ],
    ids=["name", "pipeline", "config", "class", "none"],
)
@pytest.mark.parametrize("function", [lckernels.patch, lckernels.unpatch])
def test_arguments_that_are_no_models(function, model, message):
    with pytest.raises(TypeError, match=f"^model: {message}"):
        function(model)


def test_a_window_as_a_list():
    with lckernels.patched(model_of("llama"), window=[2, 0]) as report:
        rows = report.rows
    with lckernels.patched(model_of("llama"), window=(2, 0)) as report:
        assert [str(row) for row in rows] == [str(row) for row in report.rows]


def test_a_backend_by_name():
    model = model_of("mistral")
    expected = logits(model)
    report = lckernels.patch(model, backend="eager")
    assert {row.backend for row in report.rows} == {"eager"}
    close(logits(model), expected)


def test_the_report_is_a_table():
    text = str(lckernels.patch(model_of("gpt_oss")))
    assert text.splitlines() == [
        "GptOssForCausalLM: 2 of 2 attention layers on lckernels",
        "layer                     kind           window   backend  result",
        f"model.layers.0.self_attn  causal window  (5, 0)   {backend()}  exact",
        f"model.layers.1.self_attn  causal         (-1, 0)  {backend()}  exact",
    ]
    mixed = lckernels.patch(model_of("minimax"))
    assert [row.verdict for row in mixed.rows if not row.taken] == [
        "left: its code does not go through transformers' attention interface"
    ]


def backend():
    shape = (1, 1, 1, 8)
    problem = lckernels.backends.registry.Problem("windowed_attention", "cpu", torch.float32, (shape,) * 3)
    return lckernels.backends.registry.choose(problem).name.ljust(7)


def test_a_relative_bias_by_name_runs_as_dense_attention():
    model = transformers.T5EncoderModel(
        transformers.T5Config(d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4, vocab_size=VOCAB)
    ).eval()
    model.set_attn_implementation("eager")
    expected = logits(model)
    model.set_attn_implementation(NAME)
    close(logits(model), expected)


def test_grouped_heads_are_not_copied():
    """Attention with grouped heads allocates nothing as large as repeated keys."""
    q = torch.randn(1, 4096, 8, 16).transpose(1, 2)
    k, v = (torch.randn(1, 4096, 1, 16).transpose(1, 2) for _ in range(2))
    mask = key_mask(1, 4096, 4096)
    with LargestTensor() as largest:
        lckernels.hf.interface.attention(torch.nn.Identity(), q, k, v, mask)
    assert largest.elements <= q.numel()


def test_no_warning_without_dense_calls():
    lckernels.hf.warn._warn.cache_clear()
    model = model_of("gpt_oss")
    lckernels.patch(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        logits(model)


def test_the_report_is_no_context_manager():
    model = model_of("llama")
    message = r"patch: got the report .* in a with statement; with lckernels.patched\(model\): ends the patch"
    with pytest.raises(TypeError, match=message), lckernels.patch(model):
        pass
    lckernels.unpatch(model)
