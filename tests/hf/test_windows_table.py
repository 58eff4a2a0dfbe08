"""docs/windows.md: the keys that each row's call shows, as its formula and as lckernels."""

import re
from collections.abc import Callable

import pytest
import torch
import transformers as hf
from helpers.docs_pages import ROOT, blocks
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.moonshine_streaming import modeling_moonshine_streaming as moonshine
from transformers.models.t5gemma2 import modeling_t5gemma2 as t5gemma2

import lckernels
from lckernels import Layout, windowed_attention

PAGE = ROOT / "docs" / "windows.md"
SCRIPTS = {
    "script": ROOT / "findings" / "one_window_number_shows_other_keys.sh",
    "keras-hub": ROOT / "findings" / "keras_hub_windows_show_other_keys.sh",
}
ROW = re.compile(r"\| [^|`]*`(.*)` \| `(.*)` \| (.*) \| (test|script|keras-hub|not run) \|")
ROWS = [
    m.groups()
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if (m := ROW.fullmatch(line)) and m[1] != "call"
]
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL |= {"cls_token_id": 1, "sep_token_id": 2}
GROUPED = SMALL | {"num_key_value_heads": 1, "head_dim": 16}
SLIDING = {"layer_types": ["sliding_attention"]}


def keys(formula: str, M: int, N: int, W: int) -> Tensor:
    """The formula for each query and key."""
    holds = eval(f"lambda i, j, p: {formula}", {"W": W, "N": N})
    return torch.tensor([[holds(i, j, i + N - M) for j in range(N)] for i in range(M)])


def one_hot(M: int, N: int, heads_first: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.zeros(1, 1, M, 16), torch.zeros(1, 1, N, 16), torch.eye(N)[None, None]
    return (q, k, v) if heads_first else tuple(x.transpose(1, 2) for x in (q, k, v))


def by_change(states: Callable[[Tensor], Tensor], N: int) -> Tensor:
    """The inputs whose change changes each row of the states."""
    torch.manual_seed(0)
    x = torch.randn(N, 32).repeat(N + 1, 1, 1)
    x[torch.arange(N) + 1, torch.arange(N)] = torch.randn(N, 32)
    with torch.no_grad():
        out = states(x)
    return ((out[1:] - out[:1]).abs().amax(-1) > 1e-6).T


def model(name: str, config: hf.PreTrainedConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    return getattr(hf, name)(config).eval()


def of_decoder(name: str, config: hf.PreTrainedConfig, N: int) -> Tensor:
    return of_encoder(name, config, N, use_cache=False)


def of_encoder(name: str, config: hf.PreTrainedConfig, N: int, **options: bool) -> Tensor:
    module = model(name, config)
    return by_change(lambda x: module(inputs_embeds=x, **options).last_hidden_state, N)


def group_query_attention(M: int, N: int, W: int) -> Tensor:
    """Keys in the cache are the past, the M new ones come with the queries."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, number = onnx.helper, onnx.TensorProto
    value, past = torch.eye(N), N - M
    given = {"q": torch.zeros(1, M, N), "k": torch.zeros(1, M, N), "v": value[None, past:]}
    given |= {"pk": torch.zeros(1, 1, past, N), "pv": value[None, None, :past]}
    kinds = {name: helper.make_tensor_value_info(name, number.FLOAT, x.shape) for name, x in given.items()}
    given |= {"last": torch.tensor([N - 1], dtype=torch.int32), "total": torch.tensor([N], dtype=torch.int32)}
    kinds |= {name: helper.make_tensor_value_info(name, number.INT32, [1]) for name in ("last", "total")}
    node = helper.make_node(
        "GroupQueryAttention", list(given), ["out", "present_k", "present_v"], domain="com.microsoft",
        num_heads=1, kv_num_heads=1, local_window_size=W,
    )  # fmt: skip
    out = helper.make_tensor_value_info("out", number.FLOAT, [1, M, N])
    graph = helper.make_graph([node], "attention", list(kinds.values()), [out])
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=versions, ir_version=10).SerializeToString()
    session = runtime.InferenceSession(made, providers=["CPUExecutionProvider"])
    (found,) = session.run(["out"], {name: x.contiguous().numpy() for name, x in given.items()})
    return torch.from_numpy(found)[0] > 0


def flex(M: int, N: int, W: int) -> Tensor:
    mask = create_block_mask(lambda b, h, i, j: (i >= j) & (i - j <= W), 1, 1, M, N, device="cpu")
    return flex_attention(*one_hot(M, N), block_mask=mask)[0, 0] > 0


def t5gemma(N: int, W: int) -> Tensor:
    stack = hf.T5GemmaModuleConfig(**GROUPED, **SLIDING, sliding_window=W)
    config = hf.T5GemmaConfig(encoder=stack, decoder=stack, is_encoder_decoder=False)
    return of_encoder("T5GemmaEncoderModel", config, N)


def t5gemma2_mask(N: int, W: int) -> Tensor:
    return of_mask(t5gemma2.sliding_window_mask_function(W, is_causal=False), N)


def of_mask(function: Callable, N: int) -> Tensor:
    i = torch.arange(N)
    return function(0, 0, i[:, None], i[None])


def gpt_neo(N: int, W: int) -> Tensor:
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_layers": 1, "num_heads": 2}
    config = hf.GPTNeoConfig(**sizes, attention_types=[[["local"], 1]], window_size=W)
    return of_decoder("GPTNeoModel", config, N)


def longt5(N: int, W: int) -> Tensor:
    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
    return of_encoder("LongT5EncoderModel", hf.LongT5Config(**sizes, local_radius=W), N)


def longformer(N: int, W: int) -> Tensor:
    config = hf.LongformerConfig(**SMALL, attention_window=[W], max_position_embeddings=70)
    return of_encoder("LongformerModel", config, N)


def sdpa(M: int, N: int, W: int) -> Tensor:
    return scaled_dot_product_attention(*one_hot(M, N), is_causal=True)[0, 0] > 0


def patched(name: str, config: hf.PreTrainedConfig, N: int, window: int | tuple[int, int]) -> Tensor:
    module = model(name, config)
    lckernels.patch(module, window=window)
    return by_change(lambda x: module(inputs_embeds=x).last_hidden_state, N)


# The keys of a row's call, by its beginning: of M queries and N keys, or of a model for N tokens.
CALLS = {
    "scaled_dot_product_attention": sdpa,
    "lambda b, h, i, j": flex,
    "GroupQueryAttention(local": group_query_attention,
    "windowed_attention(": lambda M, N, W: (
        windowed_attention(*one_hot(M, N, heads_first=False), window_size=(W, 0))[0, :, 0] > 0
    ),
}
MODELS = {
    "MistralConfig": lambda N, W: of_decoder(
        "MistralModel", hf.MistralConfig(**GROUPED, sliding_window=W), N
    ),
    "Gemma3TextConfig": lambda N, W: of_encoder(
        "Gemma3TextModel",
        hf.Gemma3TextConfig(**GROUPED, **SLIDING, sliding_window=W, use_bidirectional_attention=True), N,
    ),
    "T5GemmaConfig": t5gemma,
    "T5Gemma2EncoderConfig": t5gemma2_mask,
    "ModernBertConfig": lambda N, W: of_encoder(
        "ModernBertModel", hf.ModernBertConfig(**SMALL, **SLIDING, local_attention=W), N
    ),
    "ModernBertDecoderConfig": lambda N, W: of_decoder(
        "ModernBertDecoderModel", hf.ModernBertDecoderConfig(**SMALL, **SLIDING, local_attention=W), N
    ),
    "Llama4TextConfig": lambda N, W: of_decoder(
        "Llama4TextModel",
        hf.Llama4TextConfig(
            **GROUPED, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=W,
            layer_types=["chunked_attention"],
        ), N,
    ),
    "RecurrentGemmaConfig": lambda N, W: of_decoder(
        "RecurrentGemmaModel",
        hf.RecurrentGemmaConfig(
            **SMALL, num_key_value_heads=1, attention_window_size=W, block_types=["attention"]
        ), N,
    ),
    "GPTNeoConfig": gpt_neo,
    "LongformerConfig": longformer,
    "LongT5Config": longt5,
    "patch(decoder, window=W": lambda N, W: patched("LlamaModel", hf.LlamaConfig(**SMALL), N, W),
    "patch(encoder, window=W": lambda N, W: patched("BertModel", hf.BertConfig(**SMALL), N, W),
    "patch(encoder, window=(W, 2)": lambda N, W: patched("BertModel", hf.BertConfig(**SMALL), N, (W, 2)),
    "sliding_window_mask_function": lambda N, W: of_mask(moonshine.sliding_window_mask_function((W, 4)), N),
}  # fmt: skip


def of_row(table: dict[str, Callable], call: str) -> Callable | None:
    return next((function for name, function in table.items() if call.startswith(name)), None)


def test_the_table_is_read():
    assert len(ROWS) == PAGE.read_text(encoding="utf-8").partition("\n### NATTEN")[0].count("\n| ") - 2
    checked = [call for call, _, _, checked_by in ROWS if checked_by == "test"]
    assert len(checked) == len(CALLS) + len(MODELS)
    assert all(of_row(CALLS | MODELS, call) for call in checked)


@pytest.mark.parametrize(("call", "formula", "ours"), [row[:3] for row in ROWS])
@pytest.mark.parametrize("W", [8, 5])
def test_lckernels_shows_the_keys_of_the_formula(call, formula, ours, W):
    if "window_size=" not in ours:
        pytest.skip("the page has no window for it")
    for M, N in [(40, 40)] if "p" not in formula and "offset" not in ours else [(40, 40), (12, 40), (1, 40)]:
        tensors, places = one_hot(M, N, heads_first=False), slice(None)
        if "dilation" in call:
            tensors, places = [x[:, ::2] for x in tensors], slice(None, None, 2)
        options = eval(f"dict({ours.split('`')[-2]})", {"W": W, "Layout": Layout})
        found = windowed_attention(*tensors, **options)[0, :, 0] > 0
        assert torch.equal(found, keys(formula, M, N, W)[places])


@pytest.mark.parametrize(("call", "formula"), [row[:2] for row in ROWS if of_row(CALLS, row[0])])
@pytest.mark.parametrize("W", [8, 5])
def test_a_call_shows_the_keys_of_its_formula(call, formula, W):
    for M, N in ((40, 40), (12, 40), (1, 40)):
        assert torch.equal(of_row(CALLS, call)(M, N, W), keys(formula, M, N, W)), (M, N)


@pytest.mark.hf
@pytest.mark.parametrize(("call", "formula"), [row[:2] for row in ROWS if of_row(MODELS, row[0])])
@pytest.mark.parametrize("W", [8, 5])
def test_a_model_shows_the_keys_of_its_formula(call, formula, W):
    if "Longformer" in call and W % 2:
        pytest.skip("its window is even")
    for N in (40, 33):
        assert torch.equal(of_row(MODELS, call)(N, W), keys(formula, N, N, W)), N


@pytest.mark.parametrize(
    ("call", "formula", "script"), [(*row[:2], SCRIPTS[row[3]]) for row in ROWS if row[3] in SCRIPTS]
)
def test_a_script_has_the_row(call, formula, script):
    assert f'"{call}": ("{formula}", ' in script.read_text(encoding="utf-8")


@pytest.mark.parametrize("W", [8, 5])
def test_natten(W):
    formula = next(formula for call, formula, *_ in ROWS if call == "natten.na1d(kernel_size=W)")
    names = {"torch": torch, "Layout": Layout, "windowed_attention": windowed_attention}
    exec(next(code for _, code in blocks(PAGE) if "def na1d" in code), names)
    found = names["na1d"](*one_hot(40, 40, heads_first=False), W)[0, :, 0] > 0
    assert torch.equal(found, keys(formula, 40, 40, W))


def test_global_tokens_of_longformer():
    names = {}
    for _, code in blocks(PAGE):
        exec(code, names)
    q, k, v = (names[name] for name in "qkv")
    band = keys("abs(i - j) <= 4 or j == 0", 64, 64, 0)
    expected = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=band)
    torch.testing.assert_close(names["out"], expected.transpose(1, 2), rtol=1e-4, atol=1e-5)
    sink = windowed_attention(q, k, v, window_size=(4, 4), layout=Layout(sink_tokens=1))
    torch.testing.assert_close(names["out"], sink, rtol=1e-4, atol=1e-5)


@pytest.mark.hf
@pytest.mark.parametrize("name", ["Qwen2", "Qwen3"])
def test_qwen_slides_the_layers_behind_max_window_layers(name):
    config = getattr(hf, f"{name}Config")
    options = GROUPED | {"use_sliding_window": True, "sliding_window": 8}
    full, narrow = keys("j <= i", 40, 40, 0), keys("i - 8 < j <= i", 40, 40, 0)
    assert torch.equal(of_decoder(f"{name}Model", config(**options), 40), full)
    assert torch.equal(of_decoder(f"{name}Model", config(**options, max_window_layers=0), 40), narrow)


@pytest.mark.hf
def test_moshi_has_no_window_without_a_cache():
    found = of_decoder("MoshiModel", hf.MoshiConfig(**GROUPED, sliding_window=8), 40)
    assert torch.equal(found.tril(), keys("j <= i", 40, 40, 0))  # transformers 5.17 shows later tokens too


def test_moonshine_counts_the_query_on_the_right():
    none_ahead, itself = (of_mask(moonshine.sliding_window_mask_function((8, right)), 40) for right in (0, 1))
    assert torch.equal(none_ahead, itself)


@pytest.mark.hf
def test_moonshine_has_a_window_only_with_a_mask():
    config = hf.MoonshineStreamingEncoderConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, sliding_windows=[[8, 4]],
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    encoder = moonshine.MoonshineStreamingEncoder(config).eval()
    wave = torch.randn(1, 40 * 320)
    other = wave.clone()
    other[:, -640:] += 1
    ones = torch.ones(1, wave.shape[1], dtype=torch.long)
    with torch.no_grad():
        first, with_other = (encoder(x).last_hidden_state[0, 0] for x in (wave, other))
        assert not torch.equal(first, with_other)
        first, with_other = (encoder(x, attention_mask=ones).last_hidden_state[0, 0] for x in (wave, other))
        assert torch.equal(first, with_other)


@pytest.mark.hf
def test_the_first_chunk_of_reformer_sees_the_last():
    config = hf.ReformerConfig(
        vocab_size=64, hidden_size=32, num_attention_heads=2, attention_head_size=16, feed_forward_size=48,
        attn_layers=["local"], local_attn_chunk_length=8, local_num_chunks_after=0, is_decoder=False,
        axial_pos_shape=[8, 8], axial_pos_embds_dim=[16, 16], axial_pos_embds=False,
        max_position_embeddings=64,
    )  # fmt: skip
    found = of_encoder("ReformerModel", config, 64)
    expected = keys("j // 8 in (i // 8, (i // 8 - 1) % 8)", 64, 64, 0)
    assert torch.equal(found[:, expected[0]], expected[:, expected[0]]) and found[0, -1]


@pytest.mark.hf
def test_position_ids_separate_sequences_only_without_a_cache():
    module = model("MistralModel", hf.MistralConfig(**GROUPED, sliding_window=8))
    positions = torch.cat([torch.arange(11), torch.arange(29)])[None]

    def found(cached):
        return by_change(
            lambda x: (
                module(
                    inputs_embeds=x, position_ids=positions.expand(len(x), -1), use_cache=cached
                ).last_hidden_state
            ),
            40,
        )

    together = keys("i - 8 < j <= i", 40, 40, 0)
    assert torch.equal(found(True), together)
    assert torch.equal(found(False), together & keys("(i >= 11) == (j >= 11)", 40, 40, 0))
