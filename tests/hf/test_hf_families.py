"""What is particular to an architecture comes from its family: each hook, and no other place in the code."""

# ruff: noqa: E402
import ast
import re
import sys
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import SIZES, WIDE, tiny, token_ids
from helpers.hf_models import build
from helpers.hf_parity import count_kernel_calls
from transformers.models.bert import modeling_bert
from transformers.models.longformer import modeling_longformer

import lckernels
from lckernels.hf import families, family
from lckernels.hf.calls import BIAS, Dense, Served, classify
from lckernels.hf.family import Family, register_family, unregister_family
from lckernels.hf.interface import attention
from lckernels.hf.masks.create import key_mask
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.patterns import two_sided
from lckernels.hf.masks.readers import read_pattern
from lckernels.hf.patch.dry_run import padded_dry_run
from lckernels.hf.patch.modules import lckernels_attention

PACKAGE = Path(lckernels.__file__).parent
MODULE = "transformers.models.toy.modeling_toy"


class ToyAttention(torch.nn.Module):
    memory = None
    is_causal = False


class ToyModel(transformers.BertModel):
    def half(self, x):
        return x / 2


ToyAttention.__module__ = ToyModel.__module__ = MODULE


def toy_model():
    torch.manual_seed(0)
    return ToyModel(transformers.BertConfig(**SIZES, **WIDE)).eval()


def toy_mask(before, after, module=MODULE):
    def inner_mask(batch, head, q, kv):
        return (kv > q - before) & (kv < q + after)

    inner_mask.__module__, inner_mask.__qualname__ = module, "toy_mask.<locals>.inner_mask"
    return inner_mask


@pytest.fixture
def register(monkeypatch):
    """Registers a toy family until the end of the test."""
    # transformers reads there whether the model's attention goes through its interface.
    monkeypatch.setitem(sys.modules, MODULE, modeling_bert)
    yield lambda **hooks: register_family(Family(name="toy", **hooks))
    unregister_family("toy")


def test_each_file_is_a_family():
    files = {path.stem for path in Path(families.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {found.name for found in family.families()}
    assert len(files) > 5


def test_a_family_matches_its_classes_and_those_derived_from_them(register):
    register()

    class Mine(ToyAttention):
        pass

    for cls, expected in ((ToyAttention, True), (Mine, True), (transformers.BertModel, False)):
        assert ("toy" in {found.name for found in family.families_of(cls)}) == expected
    unregister_family("toy")
    assert family.families_of(ToyAttention) == ()


def test_mask_readers(register):
    mask = toy_mask(3, 2)
    assert read_pattern(mask) is None
    key = ("modeling_toy", "toy_mask.<locals>.inner_mask")
    register(mask_readers={key: lambda closure: two_sided(closure["before"], closure["after"])})
    assert read_pattern(mask).window == (2, 1)
    assert key_mask(1, 6, 6, mask_function=mask).window == (2, 1)
    unregister_family("toy")
    assert read_pattern(mask) is None


@pytest.mark.parametrize("module", ["modeling_toy", "my_package.modeling_toy", MODULE])
@pytest.mark.parametrize("key", ["modeling_toy", "my_package.modeling_toy"])
def test_mask_readers_of_any_module(register, module, key):
    """A reader's key is the module's name or the last parts of it, in any package."""
    mask = toy_mask(3, 2, module)
    name = "toy_mask.<locals>.inner_mask"
    register(mask_readers={(key, name): lambda closure: two_sided(closure["before"], closure["after"])})
    if module.endswith(key):
        assert key_mask(1, 6, 6, mask_function=mask).window == (2, 1)
    else:
        assert read_pattern(mask) is None
    assert read_pattern(toy_mask(3, 2, "my_package.other_modeling_toy")) is None


def test_unsupported(register):
    register(unsupported=lambda layer: "" if layer.memory is None else "it adds keys of a memory")
    layer, q = ToyAttention(), torch.randn(1, 2, 4, 8)
    assert isinstance(classify(layer, q, q, None, {}, any_length=True), Served)
    layer.memory = q
    with pytest.raises(NotServed, match="model: it adds keys of a memory"):
        classify(layer, q, q, None, {}, any_length=True)
    assert isinstance(classify(layer, q, q, None, {}), Served)


def test_short_calls_of_a_model_with_compressed_keys():
    """By name the model runs where it adds no keys; patch raises, since longer calls add them."""
    model = build("deepseek_v4 (compressed keys)")
    ids = torch.randint(3, 48, (1, 19))
    with torch.no_grad():
        eager = model(input_ids=ids).logits
        model.set_attn_implementation("lckernels")
        torch.testing.assert_close(model(input_ids=ids).logits, eager, rtol=1e-4, atol=1e-4)


def test_unsupported_is_a_reason_of_the_model(register):
    model = toy_model()
    model.encoder.layer[0].attention.self.__class__ = type(
        "Own", (type(model.encoder.layer[0].attention.self),), {"__module__": MODULE}
    )
    register(unsupported=lambda layer: "it adds keys of a memory")
    assert padded_dry_run(model).reasons() == ["it adds keys of a memory"]
    with pytest.raises(TypeError, match="a patch would do nothing: it adds keys of a memory"):
        lckernels.patch(model)


def test_relative_bias(register):
    layer, q = ToyAttention(), torch.randn(1, 2, 5, 8)
    table = torch.randn(2, 9)
    distance = torch.arange(5)[None] - torch.arange(5)[:, None]
    bias = table[:, distance + 4][None]
    assert classify(layer, q, q, None, {"position_bias": bias}) == Dense(BIAS)
    expected, _ = attention(layer, q, q, q, None, scaling=1.0, position_bias=bias)
    register(relative_bias=lambda layer, bias: None if bias is None else (table, 4))
    call = classify(layer, q, q, None, {"position_bias": bias})
    assert isinstance(call, Served)
    assert call.score.rel_bias is table
    assert call.score.bias_center == 4
    ours, _ = attention(layer, q, q, q, None, scaling=1.0, position_bias=bias)
    torch.testing.assert_close(ours, expected)


def test_replacements(register):
    def double(module, x):
        return 2 * x

    model = toy_model()
    register(replacements=lambda module: {"half": double} if isinstance(module, ToyModel) else {})
    assert model.half(4) == 2
    with lckernels.patched(model):
        assert model.half(4) == 8
    assert model.half(4) == 2
    assert "half" not in model.__dict__


class OwnAttention(torch.nn.Module):
    """Attention that does not go through transformers' interface."""

    is_causal = False

    def __init__(self, config):
        super().__init__()
        self.config, self.qkv = config, torch.nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def heads(self, x):
        return (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=-1))

    def forward(self, x):
        q, k, v = self.heads(x)
        return ((q @ k.mT * 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)


class OwnModel(transformers.PreTrainedModel):
    config_class = transformers.BertConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.layer = OwnAttention(config)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **options):
        return (self.layer(self.embed(input_ids)),)


OwnAttention.__module__ = OwnModel.__module__ = MODULE


def through_the_interface(layer):
    """The forward of an OwnAttention that calls the attention function of its config."""
    if not isinstance(layer, OwnAttention):
        return {}

    def forward(layer, x):
        run = transformers.AttentionInterface._global_mapping[layer.config._attn_implementation]
        return run(layer, *layer.heads(x), None, scaling=0.5)[0].flatten(2)

    return {"forward": forward}


def test_own_attention_with_replacements(register, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, modeling_longformer)
    model, ids = OwnModel(transformers.BertConfig(**SIZES, **WIDE)).eval(), token_ids(30)[None]
    with pytest.raises(TypeError, match="the attention of OwnModel does not go through"):
        lckernels.patch(model)
    register(replacements=through_the_interface, own_attention=True)
    with torch.no_grad():
        expected = model(ids)[0]
        with lckernels.patched(model) as report:
            assert [(row.layer, row.kind, row.verdict) for row in report.rows] == [
                ("layer", "bidirectional", "exact")
            ]
            calls = count_kernel_calls(lambda: torch.testing.assert_close(model(ids)[0], expected))
        assert calls == 1
        assert "forward" not in model.layer.__dict__
        assert torch.equal(model(ids)[0], expected)


def test_feed_forward(register):
    model, widths = toy_model(), []
    register(feed_forward=("half",))
    own = ToyModel.half
    try:
        ToyModel.half = lambda self, x: widths.append(x.shape[1]) or own(self, x)
        x = torch.randn(1, 7, 2)
        with lckernels_attention(model, piece_tokens=3):
            torch.testing.assert_close(model.half(x), x / 2)
    finally:
        ToyModel.half = own
    assert widths == [3, 3, 1]


def test_mixes_tokens(register):
    model = toy_model()
    lckernels.LongEncoder(model, 20, merge="layer")
    register(mixes_tokens=lambda model: "its embeddings mix neighbouring tokens")
    with pytest.raises(TypeError, match="its embeddings mix neighbouring tokens; merge='layer'"):
        lckernels.LongEncoder(model, 20, merge="layer")


def test_dry_inputs(register):
    def one_row(model):
        return {"input_ids": torch.zeros(1, 9, dtype=torch.long, device="meta")}

    register(dry_inputs=one_row)
    shapes = {call.shapes[0][:2] for call in padded_dry_run(toy_model()).calls}
    assert shapes == {(1, 9)}
    assert {call.shapes[0][:2] for call in padded_dry_run(tiny()).calls} == {(2, 4)}


def test_a_family_changes_no_result(register):
    model, ids = toy_model(), token_ids(30)[None]
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        register()
        with lckernels.patched(model):
            torch.testing.assert_close(model(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


def names_and_strings(tree):
    """Identifiers, and strings that are no docstrings."""
    docstrings = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            docstrings.add(id(body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        names = (getattr(node, field, None) for field in ("id", "attr", "name", "arg", "module"))
        yield from (name for name in names if isinstance(name, str))


def test_generic_code_names_no_architecture():
    folder = Path(transformers.__file__).parent / "models"
    architectures = {path.name.replace("_", "") for path in folder.iterdir() if path.is_dir()} - {"auto"}
    found = []
    for path in [*(PACKAGE / "hf").rglob("*.py"), *(PACKAGE / "long").rglob("*.py")]:
        if "families" in path.parts:
            continue
        for text in names_and_strings(ast.parse(path.read_text(encoding="utf-8"))):
            text = text.replace("sentence_bert_config.json", "")  # the file of every SentenceTransformer
            parts = re.findall(r"[A-Z]?[a-z]+\d*|[A-Z\d]+", text) + re.split(r"[^a-zA-Z\d]+", text)
            found += [f"{path.name}: {text}" for part in parts if part.lower() in architectures]
    assert found == []


@pytest.mark.parametrize("padded", [False, True])
def test_the_router_of_nllb_moe_reads_the_mask(padded):
    torch.manual_seed(0)
    config = transformers.NllbMoeConfig(
        vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
        encoder_attention_heads=4, decoder_attention_heads=4, num_experts=4, encoder_sparse_step=1,
        decoder_sparse_step=1, pad_token_id=1, init_std=0.2,
    )  # fmt: skip
    model = transformers.NllbMoeModel(config).eval()
    ids = torch.randint(6, 60, (2, 20))
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask if padded else None, "decoder_input_ids": ids[:, :9]}
    with torch.no_grad():
        expected = model(**inputs)[0]
        with lckernels.patched(model):
            torch.testing.assert_close(model(**inputs)[0], expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(model(**inputs)[0], expected)
