"""A LongEncoder's attention is that of its thread's call: other readers of the model see no change."""

# ruff: noqa: E402
import threading

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import tiny, token_ids
from helpers.hf_calls import counted_attention
from helpers.row_models import make_rows_model

import lckernels
import lckernels.hf.support
from lckernels.backends.registry import Backend
from lckernels.hf.patch.modules import lckernels_switch


@pytest.fixture
def calls(monkeypatch):
    """Counts calls of lckernels' attention function, with a kernel for every row on every device."""
    monkeypatch.setattr(lckernels.hf.support, "SHORT_ROW", 0)
    fast = Backend("fast", {}, reasons=lambda problem: [], unavailable=lambda: "")
    monkeypatch.setattr(lckernels.hf.support, "choose", lambda problem, **options: fast)
    return counted_attention(monkeypatch)


def attributes(model):
    return [{name: id(value) for name, value in module.__dict__.items()} for module in model.modules()]


def in_threads(*functions):
    """Runs each function in a thread of its own; raises what they raise."""
    errors = []

    def run(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]


class Wrapped(torch.nn.Module):
    """A model within another module."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, input_ids, attention_mask=None, **options):
        return self.inner(input_ids, attention_mask, **options)


def test_another_model_that_calls_change_does_not_wait():
    models, short = [make_rows_model("big_bird") for _ in range(2)], token_ids(20)[None]
    first, second = (lckernels.LongEncoder(model, 128) for model in models)
    inside, returned = threading.Event(), threading.Event()

    def wait(module, args):
        inside.set()
        assert returned.wait(30)

    def other():
        assert inside.wait(30)
        second(short)
        returned.set()

    models[0].embeddings.register_forward_pre_hook(wait)
    in_threads(lambda: first(short), other)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_that_calls_change_is_as_before_after_calls_of_two_threads(wrapped):
    model, short = make_rows_model("big_bird"), token_ids(20)[None]
    encoder = lckernels.LongEncoder(model, 128)
    other = lckernels.LongEncoder(Wrapped(model), 128) if wrapped else encoder
    first_is_inside, second_is_inside, first_has_returned = (threading.Event() for _ in range(3))

    def first():
        encoder(short)
        first_has_returned.set()

    def second():
        assert first_is_inside.wait(60)
        other(short)

    def before_forward(module, args):
        if first_is_inside.is_set():
            second_is_inside.set()
            assert first_has_returned.wait(60)

    def before_embeddings(module, args):
        if not first_is_inside.is_set():
            assert model.attention_type == "original_full"
            first_is_inside.set()
            second_is_inside.wait(0.3)  # the second call begins now, or after this one

    model.register_forward_pre_hook(before_forward)
    model.embeddings.register_forward_pre_hook(before_embeddings)
    in_threads(first, second)
    assert model.attention_type == "block_sparse"


@pytest.mark.parametrize("merge", ["final", "layer"])
def test_another_thread_runs_the_stock_model_during_a_call(calls, merge):
    model, ids = tiny(), token_ids(30)[None]
    encoder = lckernels.LongEncoder(model, 20, 6, merge=merge)
    before, config = attributes(model), model.config
    inside, done = threading.Event(), threading.Event()

    def wait(module, args):
        if threading.current_thread() is caller:
            inside.set()
            assert done.wait(30)

    hook = model.encoder.layer[1].register_forward_pre_hook(wait)
    results = {}

    def encode():
        results["long"] = encoder(token_ids(70)[None]).last_hidden_state

    def bare():
        assert inside.wait(30)
        try:
            served = len(calls)
            results["bare"] = model(ids).last_hidden_state
            assert len(calls) == served
            assert model.config is config
            assert config._attn_implementation == "sdpa"
            config.added_during_a_call = 7
            other = transformers.BertModel(model.config).eval()
            other(ids)
            assert len(calls) == served
        finally:
            done.set()

    def no_grad(function):
        with torch.no_grad():
            function()

    caller = threading.Thread(target=lambda: no_grad(encode))
    caller.start()
    in_threads(lambda: no_grad(bare))
    caller.join(60)
    hook.remove()
    assert config.added_during_a_call == 7
    assert calls
    assert attributes(model) == before
    with torch.no_grad():
        assert torch.equal(results["bare"], model(ids).last_hidden_state)
        torch.testing.assert_close(results["long"], encoder(token_ids(70)[None]).last_hidden_state)


def test_two_threads_share_an_encoder_beside_a_bare_model(calls):
    model, ids = tiny(), [token_ids(n, n)[None] for n in (70, 30, 100)]
    encoder = lckernels.LongEncoder(model, 20, 6)
    before, rounds = attributes(model), 12
    with torch.no_grad():
        expected = [encoder(x).last_hidden_state for x in ids]
        plain = model(ids[1]).last_hidden_state

    def encode(start):
        with torch.no_grad():
            for i in range(rounds):
                at = (start + i) % 3
                torch.testing.assert_close(encoder(ids[at]).last_hidden_state, expected[at])

    def bare():
        with torch.no_grad():
            for i in range(rounds):
                assert torch.equal(model(ids[1]).last_hidden_state, plain)
                model.config.round = i

    in_threads(lambda: encode(0), lambda: encode(1), bare)
    assert model.config.round == rounds - 1
    assert attributes(model) == before


def test_after_an_exception_the_model_is_as_before(calls):
    model = tiny()
    encoder = lckernels.LongEncoder(model, 20, 6)
    before = attributes(model)

    def stop(*args):
        raise RuntimeError("stop")

    hook = model.encoder.layer[1].register_forward_pre_hook(stop)
    with torch.no_grad(), pytest.raises(RuntimeError, match="stop"):
        encoder(token_ids(70)[None])
    hook.remove()
    assert attributes(model) == before
    calls.clear()
    with torch.no_grad():
        model(token_ids(20)[None])
    assert not calls


def test_the_choice_follows_the_model(calls):
    """What is determined once is determined again after a change of the model or its config."""
    model, ids = tiny(), token_ids(70)[None]
    encoder = lckernels.LongEncoder(model, 20, 6)

    def served():
        calls.clear()
        with torch.no_grad():
            encoder(ids)
        return len(calls)

    first = served()
    assert first and served() == first
    model.set_attn_implementation("eager")
    assert served() == 0
    model.set_attn_implementation("sdpa")
    assert served() == first
    model.encoder.layer = model.encoder.layer[:1]
    assert served() == first // 2
    model.encoder.layer[0].attention.self.forward = model.encoder.layer[0].attention.self.forward
    assert served() == first // 2
    with lckernels.patched(model):
        assert served() == first // 2
    assert served() == first // 2
    model.encoder.layer[0].intermediate.compile(backend="eager")  # a module without a config
    assert served() == 0


def test_the_choice_follows_a_compiled_model(calls):
    model, ids = tiny(), token_ids(70)[None]
    encoder = lckernels.LongEncoder(model, 20, 6)
    with torch.no_grad():
        encoder(ids)
        assert calls
        calls.clear()
        model.compile(backend="eager")
        encoder(ids)
    assert not calls


class Unread(dict):
    """Labels that nothing may read while `armed`."""

    armed = False

    def _read(self, *args):
        assert not Unread.armed, "the labels are read"
        return self

    __deepcopy__ = __copy__ = _read

    def __repr__(self):
        self._read()
        return "labels"

    def __iter__(self):
        self._read()
        return super().__iter__()

    def __eq__(self, other):
        self._read()
        return super().__eq__(other)

    def items(self):
        self._read()
        return super().items()

    def copy(self):
        self._read()
        return super().copy()


@pytest.mark.parametrize("merge", ["final", "layer"])
def test_a_call_does_not_read_the_labels_of_the_config(calls, merge):
    """Its host time does not depend on the config's size."""
    model = tiny()
    model.config.__dict__["id2label"] = Unread({i: f"label {i}" for i in range(100)})
    encoder = lckernels.LongEncoder(model, 20, 6, merge=merge)
    with torch.no_grad():
        encoder(token_ids(70)[None])
        Unread.armed = True
        try:
            for n in (70, 12, 20):
                encoder(token_ids(n)[None])
        finally:
            Unread.armed = False
    assert calls


def test_a_compiled_call_runs_on_the_attention_of_another_threads_call(calls):
    """torch.compile cannot read the state of a thread; docs/long_encoder.md names the exception."""
    model, ids = tiny(), token_ids(30)[None]
    compiled = torch.compile(model, backend="eager")
    inside, done = threading.Event(), threading.Event()

    def hold():
        with lckernels_switch(model).active():
            inside.set()
            assert done.wait(120)

    def beside():
        try:
            assert inside.wait(60)
            with torch.no_grad():
                expected = model(ids).last_hidden_state
                assert not calls
                torch.testing.assert_close(compiled(ids).last_hidden_state, expected)
                assert calls
        finally:
            done.set()

    in_threads(hold, beside)
    served = len(calls)
    with torch.no_grad():
        assert torch.equal(compiled(ids).last_hidden_state, model(ids).last_hidden_state)
    assert len(calls) == served
