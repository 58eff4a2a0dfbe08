"""The trial run of LongEncoder: what it finds, that it does not change the model, and when it runs."""

# ruff: noqa: E402
import random
import types

import numpy
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import FAMILIES, tiny, token_ids
from helpers.hf_encoders import make_encoder
from helpers.row_models import make_rows_model
from helpers.speech_and_vision import SPEECH_AND_VISION
from transformers.modeling_outputs import BaseModelOutput

from lckernels import LongEncoder
from lckernels.long.chunking import Rows
from lckernels.long.trial import try_copy, try_in_place


@pytest.mark.parametrize("name", [*FAMILIES, "siglip", "clip", "modernbert", "esm", "xmod", "t5gemma"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_padding_is_inert_and_rows_are_independent(name, dtype):
    assert LongEncoder(make_encoder(name).to(dtype), 20).rows is Rows.ANY


@pytest.mark.parametrize("name", ["fnet", "canine", "funnel", "reformer", "yoso", "convbert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_padding_that_counts_is_found_in_each_dtype(name, dtype):
    assert LongEncoder(make_rows_model(name).to(dtype), 20).rows is Rows.EQUAL


def fixed_state(model):
    """All of the model that a call could change."""
    values = {name: x.clone() for name, x in model.state_dict(keep_vars=False).items()}
    plain = {
        name: {key: x for key, x in m.__dict__.items() if isinstance(x, int | float | str | bool)}
        for name, m in model.named_modules()
    }
    return values, plain, {name: id(m) for name, m in model.named_modules()}, model.config.to_dict()


@pytest.mark.parametrize("name", ["bert", "fnet", "big_bird", "llama"])
def test_the_model_and_the_random_state_do_not_change(name):
    model = make_rows_model(name) if name != "bert" else tiny()
    options = {"is_causal": False} if name == "llama" else {}
    model = make_rows_model(name, **options) if options else model
    model.train()
    calls = []
    for module in model.modules():
        module.register_forward_hook(lambda *args: calls.append(args))
        module.register_forward_pre_hook(lambda *args: calls.append(args))
    torch.manual_seed(0), random.seed(0), numpy.random.seed(0)
    expected = torch.rand(3), random.random(), numpy.random.rand()
    torch.manual_seed(0), random.seed(0), numpy.random.seed(0)
    before = fixed_state(model)
    LongEncoder(model, 20)
    drawn = torch.rand(3), random.random(), numpy.random.rand()
    after = fixed_state(model)
    assert torch.equal(drawn[0], expected[0])
    assert drawn[1:] == expected[1:]
    assert all(torch.equal(x, after[0][key]) for key, x in before[0].items())
    assert before[1:] == after[1:]
    assert calls == []
    assert all(parameter.grad is None for parameter in model.parameters())


class Normalized(torch.nn.Module):
    """BatchNorm and dropout over an encoder."""

    def __init__(self):
        super().__init__()
        self.inner = tiny()
        self.config = self.inner.config
        self.norm, self.dropout = torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.5)

    def forward(self, **inputs):
        output = self.inner(**inputs)
        states = self.norm(output.last_hidden_state.transpose(1, 2)).transpose(1, 2)
        output["last_hidden_state"] = self.dropout(states)
        return output


def test_a_model_in_train_mode_is_tried_in_eval_mode():
    model = Normalized().train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    assert LongEncoder(model, 20).rows is Rows.ANY
    assert try_in_place(model, torch.device("cpu")).rows is Rows.ANY
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", sorted(SPEECH_AND_VISION))
def test_encoders_of_other_input_name_it(name):
    make, argument = SPEECH_AND_VISION[name]
    model = make()
    message = f"model: got {type(model).__name__}, whose input is {argument}; expected an encoder whose input"
    with pytest.raises(TypeError, match=message):
        LongEncoder(model, 20)


def test_weights_that_are_loaded_later_are_tried_at_the_first_call():
    real = make_rows_model("fnet")
    with torch.device("meta"):
        model = type(real)(real.config).eval()
    encoder = LongEncoder(model, 20)
    assert encoder.trial is None and encoder.rows is None
    known = (
        "rows         not known before the first call; micro-batches are counted as for rows of any lengths"
    )
    assert known in str(encoder.explain(70))
    encoder.to_empty(device="cpu")
    model.load_state_dict(real.state_dict())
    model.embeddings.position_ids = real.embeddings.position_ids.clone()
    model.embeddings.token_type_ids = real.embeddings.token_type_ids.clone()
    with torch.no_grad():
        states = encoder(token_ids(70)[None]).last_hidden_state
        assert encoder.rows is Rows.EQUAL
        assert known not in str(encoder.explain(70))
        expected = LongEncoder(real, 20)(token_ids(70)[None]).last_hidden_state
    assert torch.equal(states, expected)


def test_offloaded_weights_are_tried_at_the_first_call():
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(make_rows_model("fnet"), torch.device("cpu"))
    assert try_copy(model) is None
    assert try_in_place(model, torch.device("cpu")).rows is Rows.EQUAL


def test_a_model_without_values_is_not_judged():
    model = tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert try_copy(model) is None


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_model_without_values_is_tried_once_at_its_first_call(value):
    model, calls = tiny(), []
    last = model.encoder.layer[-1].output.LayerNorm
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(value)
    encoder, ids = LongEncoder(model, 20), token_ids(15).expand(2, -1)
    assert encoder.trial is None
    model.register_forward_pre_hook(lambda *args: calls.append(args))
    with torch.no_grad():
        encoder(ids)
        first = len(calls)
        encoder(ids)
    assert (first, len(calls)) == (3, 5)  # the trial and two rows, then two rows
    assert encoder.rows is Rows.ALONE
    assert "its states for a short row are zero or not finite" in str(encoder.explain(70))


def test_a_model_that_cannot_read_a_short_row_reads_one_at_a_time():
    class Long(torch.nn.Module):
        """Raises an error for rows of less than 20 tokens."""

        def __init__(self):
            super().__init__()
            self.inner = tiny()
            self.config = self.inner.config

        def forward(self, **inputs):
            if inputs["input_ids"].shape[1] < 20:
                raise RuntimeError("too short")
            return self.inner(**inputs)

    encoder = LongEncoder(Long(), 20, 6)
    assert encoder.rows is Rows.ALONE
    assert "the trial run of a short row failed (RuntimeError: too short)" in str(encoder.explain(70))
    expected = LongEncoder(tiny(), 20, 6)(token_ids(70)[None]).last_hidden_state
    torch.testing.assert_close(encoder(token_ids(70)[None]).last_hidden_state, expected)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig"])
def test_virtual_tokens_that_have_states_are_counted(kind):
    peft = pytest.importorskip("peft")
    options = {"encoder_hidden_size": 16} if kind == "PromptEncoderConfig" else {}
    config = getattr(peft, kind)(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4, **options)
    model = peft.get_peft_model(tiny(), config)
    message = "PeftModelForFeatureExtraction, which returns 15 states for 11 tokens; expected one state per"
    with pytest.raises(TypeError, match=message):
        LongEncoder(model, 20)


def test_sharded_weights_are_tried_at_the_first_call(tmp_path):
    from torch.distributed.fsdp import fully_shard

    model, ids = make_rows_model("fnet"), token_ids(70)
    with torch.no_grad():
        expected = LongEncoder(model, 20)(ids[None]).last_hidden_state
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for layer in model.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        encoder = LongEncoder(model.train(), 20)
        assert encoder.trial is None
        model.eval()
        for _ in range(2):
            states = encoder(ids[None]).last_hidden_state
            torch.testing.assert_close(states, expected)
            states.sum().backward()
        assert encoder.rows is Rows.EQUAL
    finally:
        torch.distributed.destroy_process_group()


def test_embeddings_are_tried_where_a_model_takes_no_ids():
    class Embedded(torch.nn.Module):
        """FNet over embeddings alone."""

        main_input_name = "inputs_embeds"

        def __init__(self):
            super().__init__()
            self.inner = make_rows_model("fnet")
            self.config = self.inner.config

        def forward(self, inputs_embeds, attention_mask=None, **options):
            return self.inner(inputs_embeds=inputs_embeds, **options)

    assert LongEncoder(Embedded(), 20, special_tokens=(0, 0)).rows is Rows.EQUAL


@pytest.mark.parametrize("with_weights", [True, False])
def test_embeddings_of_unknown_size_are_read_one_row_at_a_time(with_weights):
    class Embedded(torch.nn.Module):
        main_input_name = "inputs_embeds"

        def __init__(self):
            super().__init__()
            self.config = types.SimpleNamespace(max_position_embeddings=32)
            self.scale = torch.nn.Parameter(torch.tensor(2.0)) if with_weights else 2.0

        def forward(self, inputs_embeds, attention_mask=None, output_hidden_states=False, return_dict=True):
            return BaseModelOutput(last_hidden_state=inputs_embeds * self.scale)

    encoder, x = LongEncoder(Embedded(), special_tokens=(0, 0)), torch.randn(2, 50, 8)
    torch.testing.assert_close(encoder(inputs_embeds=x).last_hidden_state, 2 * x)
    assert encoder.rows is Rows.ALONE
    assert "no hidden_size" in encoder.trial.reason


def test_compiled_models_are_tried_without_compiling():
    model, compiled = make_rows_model("fnet"), []
    model.compile(backend=lambda graph, inputs: compiled.append(graph) or graph)
    assert LongEncoder(model, 20).rows is Rows.EQUAL
    assert compiled == []


def test_fake_tensors_are_not_compared():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        encoder = LongEncoder(tiny(), 32)
        output = encoder(token_ids(20)[None].expand(2, -1))
        assert output.last_hidden_state.shape == (2, 20, 16)
        assert encoder.trial is None


def test_special_tokens_of_fake_tensors_are_not_read():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        encoder = LongEncoder(tiny("roberta"), 32)
        assert encoder.special_ids
        assert encoder(torch.full((2, 20), 5)).last_hidden_state.shape == (2, 20, 16)
