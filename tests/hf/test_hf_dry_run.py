"""A dry run finds what a call does, and does not change the model."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import FAMILIES, tiny, token_ids
from helpers.hf_calls import counted_attention, served_runs
from helpers.hf_encoders import make_encoder

import lckernels.hf.interface
import lckernels.hf.support
from lckernels import LongEncoder
from lckernels.backends.registry import backends
from lckernels.hf.patch import dry_run
from lckernels.hf.patch.dry_run import padded_dry_run
from lckernels.hf.patch.modules import lckernels_attention

SERVED = [*(name for name in FAMILIES if name != "mpnet"), "siglip", "esm", "chinese_clip"]


@pytest.mark.parametrize("name", [*SERVED, "layoutlm", "markuplm", "clip", "modernbert", "fnet", "t5gemma"])
@pytest.mark.parametrize("padded", [False, True])
def test_it_equals_a_call(name, padded, monkeypatch):
    layers, served = counted_attention(monkeypatch), served_runs(monkeypatch)
    model = make_encoder(name)
    run = padded_dry_run(model)
    assert not layers
    assert not run.error
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, 12:] = 0
    with torch.no_grad(), lckernels_attention(model):
        model(torch.stack([token_ids(20), token_ids(20, 1)]), attention_mask=mask if padded else None)
    assert (len(run.calls), run.served) == (len(layers), len(served))
    if name in SERVED:
        assert run.reasons() == []
        assert len(served) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "layoutlm",
            "the model's own: every attention layer runs as torch's dense attention: "
            "it uses a dense mask of its own",
        ),
        ("clip", "lckernels"),
        ("modernbert", "lckernels"),
        ("siglip", "lckernels"),
        ("xmod", "lckernels"),
    ],
)
def test_explain_names_the_attention(name, said, monkeypatch):
    # As if a backend other than eager supported attention on every device, in short rows too.
    monkeypatch.setattr(lckernels.hf.support, "choose", lambda problem, warn: backends()["cpu"])
    monkeypatch.setattr(lckernels.hf.support, "SHORT_ROW", 0)
    model = make_encoder(name)
    model.config._attn_implementation = "sdpa"
    encoder = LongEncoder(model, 20, 6)
    explained = encoder.explain(70).attention
    assert explained.startswith(said) if " " in said else explained == said
    with torch.no_grad():
        expected = LongEncoder(model, 20, 6, attention="model")(token_ids(70)[None]).last_hidden_state
        ours = encoder(token_ids(70)[None]).last_hidden_state
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    if said.startswith("the model's own"):
        assert torch.equal(ours, expected)
        with pytest.raises(TypeError, match=r"model: got .*; attention='lckernels' does not support it: "):
            LongEncoder(model, 20, 6, attention="lckernels")
    else:
        forced = LongEncoder(model, 20, 6, attention="lckernels")
        assert forced.explain(70).attention == explained


def test_unsupported_options_are_a_reason():
    model = make_encoder("bert")
    own = type(model.encoder.layer[0].attention.self)
    run = own.forward

    class Indexed(own):
        def forward(self, *args, **options):
            return run(self, *args, **options, indices=torch.zeros(1, device="meta"))

    model.encoder.layer[0].attention.self.__class__ = Indexed
    reason = "indices: got Tensor; attn_implementation='lckernels' does not support it"
    assert padded_dry_run(model).reasons() == [reason]
    with pytest.raises(TypeError, match=f"attention='lckernels' does not support it: {reason}"):
        LongEncoder(model, 20, 6, attention="lckernels")


def test_a_model_that_cannot_run_on_the_meta_device():
    class Reads(transformers.BertModel):
        def forward(self, input_ids, **options):
            return super().forward(input_ids + 0 * int(input_ids.max()), **options)

    model = Reads(tiny().config).eval()
    encoder = LongEncoder(model, 20, 6, attention="lckernels")
    said = encoder.explain(70).attention
    assert said.startswith("lckernels, if the model uses no mask but padding, which is not known (Runtime")
    with torch.no_grad():
        assert encoder(token_ids(70)[None]).last_hidden_state.shape == (1, 70, 16)
        LongEncoder(model, 20, 6, merge="layer")(token_ids(70)[None])


def test_the_model_does_not_change():
    model = make_encoder("bert").train()
    seen = []
    model.register_forward_hook(lambda *args: seen.append(args))
    model.encoder.layer[0].register_forward_pre_hook(lambda *args: seen.append(args))
    model.encoder.forward = lambda *args, run=model.encoder.forward, **kw: seen.append(1) or run(*args, **kw)
    before = [{name: id(value) for name, value in m.__dict__.items()} for m in model.modules()]
    config, random = model.config.to_dict(), torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert (len(padded_dry_run(model).calls), padded_dry_run(model).dense) == (2, ())
    assert not seen
    assert [{name: id(value) for name, value in m.__dict__.items()} for m in model.modules()] == before
    assert all(module.training for module in model.modules())
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_within_lckernels_attention():
    model = make_encoder("bert")
    with lckernels_attention(model, piece_tokens=2):
        run = padded_dry_run(model)
    assert (len(run.calls), run.served, run.error) == (2, 2, "")


def test_it_is_cached(monkeypatch):
    ran, run = [], dry_run._run
    monkeypatch.setattr(dry_run, "_run", lambda *args: ran.append(args) or run(*args))
    model = make_encoder("bert")
    for _ in range(2):
        encoder = LongEncoder(model, 20, 6, attention="lckernels")
        encoder.explain(70)
        with torch.no_grad():
            encoder(token_ids(70)[None])
    assert len(ran) == 1
    model.encoder.layer = model.encoder.layer[:1]
    assert len(padded_dry_run(model).calls) == 1
    assert len(ran) == 2
