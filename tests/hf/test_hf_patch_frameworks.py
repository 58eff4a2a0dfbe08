"""lckernels.patch with copies, dtypes, files, device maps, LoRA, gradient checkpointing and DDP."""

# ruff: noqa: E402
import copy
import threading

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.compare import assert_as_good_as
from helpers.fresh_python import run
from helpers.hf_calls import counted_attention, served_runs
from helpers.hf_patched import IDS, MASK, VALID, attributes, close, logits, model_of

import lckernels
from lckernels.hf import NAME
from lckernels.hf.patch import plan
from lckernels.hf.patch.modules import lckernels_attention
from lckernels.hf.settings import LayerSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["gpt_oss", "modernbert", "t5gemma", "zaya"])
def test_unpatch_restores_every_bit(name):
    model = model_of(name)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    if name == "t5gemma":
        inputs["decoder_input_ids"] = IDS
    expected, before, state = logits(model, **inputs), attributes(model), copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="stop"), lckernels.patched(model):
        assert not torch.equal(logits(model, **inputs), expected)
        raise RuntimeError("stop")
    assert attributes(model) == before
    assert torch.equal(logits(model, **inputs), expected)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_two_models_with_one_config():
    one = model_of("gemma2")
    other = transformers.Gemma2ForCausalLM(one.config).eval()
    other.load_state_dict(one.state_dict())
    config, expected = other.config, logits(other)
    lckernels.patch(one)
    assert other.config is config
    assert torch.equal(logits(other), expected)
    close(logits(one), expected)


def test_copies_of_a_patched_model_are_patched_and_can_be_unpatched(monkeypatch):
    model = model_of("mistral")
    expected = logits(model)
    lckernels.patch(model)
    twin = copy.deepcopy(model)
    lckernels.unpatch(model)
    calls = counted_attention(monkeypatch)
    close(logits(twin), expected)
    assert len(calls) == 2
    lckernels.unpatch(twin)
    assert torch.equal(logits(twin), expected)
    assert twin.config is twin.model.config is twin.model.layers[0].self_attn.config


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_after_the_patch(dtype):
    model = model_of("mistral", "sdpa")  # eager takes its softmax in fp32
    lckernels.patch(model)
    model.to(dtype)
    ours = logits(model, input_ids=IDS)
    lckernels.unpatch(model)
    honest, truth = logits(model, input_ids=IDS), logits(model.double(), input_ids=IDS)
    assert ours.dtype == dtype
    assert_as_good_as(ours, truth, honest)


def test_autocast():
    model = model_of("mistral")
    truth = logits(model)[VALID]
    with torch.autocast("cpu", torch.bfloat16):
        honest = logits(model)[VALID]
        with lckernels.patched(model):
            ours = logits(model)[VALID]
    assert_as_good_as(ours, truth, honest)


def test_nothing_of_lckernels_is_saved(tmp_path):
    model = model_of("mistral")
    expected = logits(model)
    model.save_pretrained(tmp_path / "plain")
    lckernels.patch(model)
    model.save_pretrained(tmp_path / "patched")
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "patched" / file.name).read_bytes()
    loaded = transformers.MistralForCausalLM.from_pretrained(tmp_path / "patched")
    assert loaded.config._attn_implementation == "sdpa"
    close(logits(loaded.eval()), expected)


def test_from_pretrained_by_name(tmp_path):
    model = model_of("gpt_oss")
    expected = logits(model)
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation=NAME, dtype=torch.float32
    )
    close(logits(loaded.eval()), expected)
    report = lckernels.patch(loaded, window=4)
    assert [row.window for row in report.rows] == [(5, 0), (3, 0)]


def test_device_map(tmp_path):
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    model = model_of("mistral")
    expected = logits(model)
    model.save_pretrained(tmp_path)
    loaded = transformers.MistralForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"}).eval()
    lckernels.patch(loaded)
    close(logits(loaded), expected)


def test_offloaded_weights():
    accelerate = pytest.importorskip("accelerate", reason="offloading needs accelerate")
    model = model_of("mistral")
    expected = logits(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert next(model.parameters()).device.type == "meta"
    report = lckernels.patch(model)
    assert [row.backend for row in report.rows] == ["cpu"] * 2
    close(logits(model), expected)


def test_a_pickled_model_is_patched_in_another_process(tmp_path):
    model = model_of("mistral")
    expected = logits(model)
    lckernels.patch(model)
    torch.save((model, IDS, MASK), tmp_path / "model.pt")
    code = """
import torch
model, ids, mask = torch.load("model.pt", weights_only=False)
with torch.no_grad():
    torch.save(model(ids, attention_mask=mask).logits, "logits.pt")
import lckernels
lckernels.unpatch(model)
"""
    made = run(code, tmp_path)
    assert made.returncode == 0, made.stderr
    close(torch.load(tmp_path / "logits.pt"), expected)


@pytest.mark.parametrize("first", ["patch", "lora"])
def test_lora(first):
    peft = pytest.importorskip("peft", reason="LoRA is tested with peft")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = model_of("mistral")
    if first == "patch":
        lckernels.patch(model)
        model = peft.get_peft_model(model, config)
        ours = logits(model)
    else:
        model = peft.get_peft_model(model, config)
        with lckernels.patched(model) as report:
            ours = logits(model)
        assert len(report.taken) == 2
        lckernels.patch(model)
    lckernels.unpatch(model)
    expected = logits(model)
    assert not torch.equal(ours, expected)
    close(ours, expected)


@pytest.mark.parametrize("dtype, within", [(torch.float32, torch.bfloat16), (torch.float64, torch.float64)])
def test_the_report_is_of_the_dtype_under_autocast(monkeypatch, dtype, within):
    dtypes, model = [], model_of("mistral").to(dtype)
    choose = plan.choose
    monkeypatch.setattr(
        plan,
        "choose",
        lambda problem, *args, **kw: dtypes.append(problem.dtype) or choose(problem, *args, **kw),
    )
    with torch.autocast("cpu", torch.bfloat16), lckernels.patched(model):
        pass
    with lckernels.patched(model):
        pass
    assert dtypes == [within] * 2 + [dtype] * 2
    runs = served_runs(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16), lckernels.patched(model):
        logits(model)
    assert {run.out.dtype for run in runs} == {within}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("unpatched_before_backward", [False, True])
@pytest.mark.parametrize("window", [None, 3])
def test_gradient_checkpointing(reentrant, unpatched_before_backward, window):
    model = model_of("qwen2").train()

    def gradients(checkpoint):
        model.zero_grad()
        if checkpoint:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        lckernels.patch(model, window=window)
        loss = model(input_ids=IDS, attention_mask=MASK, labels=IDS, use_cache=False).loss
        if unpatched_before_backward and checkpoint:
            lckernels.unpatch(model)
            loss.backward()
        else:
            loss.backward()
            lckernels.unpatch(model)
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients(False)
    for ours, expected in zip(gradients(True), plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_settings_of_a_recomputed_layer_are_those_of_its_thread():
    """Two threads recompute a layer with a window, a third runs the model in a context without one."""
    model = model_of("qwen2")
    layers = [m for m in model.modules() if type(m).__name__ == "Qwen2Attention"]
    narrow = {layer: LayerSettings(window=3) for layer in layers}
    given = {"first": narrow, "second": narrow, "plain": None}
    entered, leave = ({name: threading.Event() for name in given} for _ in range(2))
    results = {}

    def run_in_context(name):
        with lckernels_attention(model, settings=given[name]):
            entered[name].set()
            assert leave[name].wait(30)
            results[name] = logits(model)

    threads = {name: threading.Thread(target=run_in_context, args=(name,)) for name in given}
    for name, thread in threads.items():
        thread.start()
        assert entered[name].wait(30)
    for name, thread in threads.items():
        leave[name].set()
        thread.join(30)
    with lckernels.patched(model, window=3):
        narrowed = logits(model)
    expected = {"first": narrowed, "second": narrowed, "plain": logits(model)}
    assert not torch.allclose(narrowed, expected["plain"], atol=1e-3)
    for name, result in expected.items():
        close(results[name], result)


def test_ddp(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = model_of("mistral")
        expected = logits(model)
        lckernels.patch(model)
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        close(logits(wrapped), expected)
        wrapped(input_ids=IDS, attention_mask=MASK, labels=IDS).loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        lckernels.unpatch(wrapped)
        assert torch.equal(logits(model), expected)
        assert [row.layer for row in lckernels.patch(wrapped).taken] == [
            f"module.model.layers.{i}.self_attn" for i in range(2)
        ]
        del wrapped  # before its group: after it torch 2.13 may deadlock
    finally:
        torch.distributed.destroy_process_group()
