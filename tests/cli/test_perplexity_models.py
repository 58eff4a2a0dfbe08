"""lckernels.perplexity.score: inputs that are no text, and models in other forms."""

# ruff: noqa: E402
import math

import numpy
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.tiny_decoder import POSITIONS, SIZES, tiny_mistral

import lckernels
from lckernels.perplexity import Scored, compare, score
from lckernels.prompts import num_prefix_keys, num_virtual_tokens


@pytest.fixture
def model():
    return tiny_mistral()


def some_ids(num_tokens, vocab_size=SIZES["vocab_size"]):
    return torch.randint(vocab_size, (num_tokens,))


def whole_nll(model, ids, offset=0):
    """nll of each token but the first, from one forward of the whole model."""
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, offset:].float()
    return -torch.log_softmax(logits[:-1], -1).gather(1, ids[1:, None])[:, 0]


def test_two_rows_are_no_sequence(model):
    for call in (score, compare):
        with pytest.raises(ValueError, match=r"^input_ids: got shape \(2, 20\); expected .*, one sequence$"):
            call(model, some_ids(40).view(2, 20))
    assert score(model, some_ids(40)[None]).num_scored == 39


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.ones(9), "input_ids: got dtype torch.float32; expected integers"),
        (torch.ones(9, dtype=torch.bool), "input_ids: got dtype torch.bool; expected integers"),
        ("a text", "input_ids: got str; expected integers"),
        ([[1, 2], [3]], "input_ids: got list; expected integers"),
    ],
)
def test_ids_that_are_no_integers(model, ids, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        score(model, ids)


def test_ids_outside_the_vocabulary(model):
    with pytest.raises(ValueError, match=r"^input_ids: got ids from 4 to 260; expected 0 <= id < 260"):
        score(model, torch.tensor([4, 5, 260]))
    with pytest.raises(ValueError, match=r"^input_ids: got ids from -1 to 5"):
        score(model, torch.tensor([4, -1, 5]))


def test_lists_and_arrays_are_read(model):
    ids = some_ids(20)
    expected = score(model, ids).nll
    for other in (ids.tolist(), ids.numpy(), ids.to(torch.int32), numpy.asarray(ids, dtype=numpy.uint16)):
        assert score(model, other).nll.equal(expected)


@pytest.mark.parametrize("given", [20, 40, -1])
def test_no_token_to_score(model, given):
    with pytest.raises(ValueError, match=rf"^given: got {given}; expected"):
        score(model, some_ids(20), given=given)
    with pytest.raises(ValueError, match=r"^given: got 2 of 3 tokens, with context 2 and stride 2; expected"):
        score(model, some_ids(3), given=2, context=2, stride=2)
    assert score(model, some_ids(20), given=19).num_scored == 1
    assert math.isnan(Scored(torch.zeros(3), torch.zeros(3, dtype=torch.bool), 1.0).perplexity)


def test_log_likelihoods_are_fp32_under_another_default(model):
    ids = some_ids(30)
    expected = score(model, ids)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = score(model, ids)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.nll.dtype == torch.float32
    torch.testing.assert_close(found.nll, expected.nll, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vocab_size", [2, 3, 8, 15, 16])
def test_a_small_vocabulary(vocab_size):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**SIZES, "vocab_size": vocab_size}, pad_token_id=None)
    model = transformers.LlamaForCausalLM(config).eval()
    ids = some_ids(30, vocab_size)
    torch.testing.assert_close(score(model, ids).nll[1:], whole_nll(model, ids), rtol=1e-4, atol=1e-4)
    sizes = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    bert = transformers.BertLMHeadModel(transformers.BertConfig(**{**sizes, "vocab_size": vocab_size}))
    with pytest.raises(TypeError, match="which sees the tokens that it is to predict"):
        score(bert.eval(), ids)


def llama4():
    torch.manual_seed(0)
    config = transformers.Llama4TextConfig(
        **SIZES, intermediate_size_mlp=48, head_dim=8, num_local_experts=2, attention_chunk_size=12
    )
    return transformers.Llama4ForCausalLM(config).eval()


def test_a_class_whose_base_model_prefix_names_nothing():
    model, ids = llama4(), some_ids(30)
    assert model.base_model is model
    torch.testing.assert_close(score(model, ids).nll[1:], whole_nll(model, ids), rtol=1e-4, atol=1e-4)
    assert compare(model, ids).difference < 1e-4


def in_peft(config):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    model = peft.get_peft_model(tiny_mistral(), config(peft))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


PEFT = {
    "lora": (lambda peft: peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]), 0),
    "prompt tuning": (lambda peft: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5), 5),
    "prefix tuning": (lambda peft: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5), 0),
}


@pytest.mark.parametrize("kind", PEFT)
def test_models_in_peft(kind):
    config, num_virtual = PEFT[kind]
    model, ids = in_peft(config), some_ids(30)
    found = score(model, ids, context=30)
    expected = whole_nll(model, ids, num_virtual)
    torch.testing.assert_close(found.nll[1:], expected, rtol=1e-4, atol=1e-4)
    assert (score(tiny_mistral(), ids, context=30).nll - found.nll).abs().max() > 1e-2
    if kind != "lora":
        with pytest.raises(ValueError, match=f"^context: got {POSITIONS}; .* has {POSITIONS - 5} positions"):
            score(model, ids, context=POSITIONS)


def test_adapters_without_virtual_tokens():
    lora = in_peft(PEFT["lora"][0])
    lora.add_adapter("other", lora.active_peft_config)
    for active in ("default", ["default", "other"], "removed"):
        lora.active_adapter = active
        assert (num_virtual_tokens(lora), num_prefix_keys(lora)) == (0, 0)


def test_a_patched_model_runs_with_its_patch(model):
    ids = some_ids(60)
    expected = score(model, ids, window=5, sink_tokens=2)
    lckernels.patch(model, window=5, sink_tokens=2)
    found = score(model, ids)
    assert found.nll.equal(expected.nll)
    with pytest.raises(ValueError, match=r"^window: got 3; MistralForCausalLM is patched already"):
        score(model, ids, window=3)
    with pytest.raises(ValueError, match=r"^model: got MistralForCausalLM, patched already; compare"):
        compare(model, ids)
    lckernels.unpatch(model)
    assert not score(model, ids).nll.equal(found.nll)


def test_a_model_with_offloaded_weights(model):
    accelerate = pytest.importorskip("accelerate")
    ids = some_ids(30)
    expected = score(model, ids)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    torch.testing.assert_close(score(model, ids).nll, expected.nll)


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"^model: got str; expected a causal language model"):
        score("HuggingFaceTB/SmolLM2-135M", some_ids(9))


OPT = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
}
BART = {
    "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
    "is_decoder": True, "is_encoder_decoder": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sizes"), [("OPT", OPT), ("Bart", BART), ("MBart", BART), ("Pegasus", BART), ("Marian", BART)]
)
def test_heads_that_call_the_decoder_in_their_model(name, sizes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=64, max_position_embeddings=64, pad_token_id=1, **sizes
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    ids = torch.arange(40) + 3
    found = score(model, ids, context=64, stride=64)
    torch.testing.assert_close(found.nll[1:], whole_nll(model, ids), rtol=1e-5, atol=1e-5)
    assert compare(model, ids, context=16).difference < 1e-4


def test_a_model_of_few_positions():
    config = transformers.GPT2Config(vocab_size=64, n_positions=8, n_embd=32, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    assert score(model, some_ids(20, 64)).num_scored == 19


def test_buckets_of_positions(model):
    found = score(model, some_ids(40))
    with pytest.raises(ValueError, match="buckets: got 0; expected an int >= 1"):
        found.by_position(0)
    assert len(found.by_position(4)[0]) == 4
