"""CausalChunks and MaskedChunks in Trainer, PEFT, DDP, and around a patched decoder."""

# ruff: noqa: E402
import copy

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.language_models import batch, causal, gradients, largest_difference, masked, token_ids
from helpers.processes import WORLD, in_two_processes
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import lckernels
from lckernels.training import CausalChunks, MaskedChunks, token_loss

pytestmark = pytest.mark.hf

LENGTHS = [50, 3, 21, 14]


def rows(lengths):
    """A dataset of documents without padding."""
    found = []
    for row, length in enumerate(lengths):
        ids = token_ids(length, row).tolist()
        found.append({"input_ids": ids, "attention_mask": [1] * length, "labels": ids})
    return found


def collate(features):
    size = max(len(row["input_ids"]) for row in features)
    padding = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: torch.tensor([row[name] + [value] * (size - len(row[name])) for row in features])
        for name, value in padding.items()
    }


def trainer(module, folder, **options):
    pytest.importorskip("accelerate")
    options = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", **options}
    arguments = transformers.TrainingArguments(output_dir=str(folder), **options)
    data = rows(LENGTHS)
    return transformers.Trainer(
        model=module,
        args=arguments,
        train_dataset=data,
        eval_dataset=data,
        data_collator=collate,
        compute_metrics=token_loss,
    )


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_trainer_takes_the_step_of_one_batch(name, tmp_path):
    """Four uneven batches accumulated, one step of SGD, against the gradient of one batch."""
    model = causal(name).float()
    before = copy.deepcopy(model)
    module = CausalChunks(model, 12, 5)
    expected = gradients(CausalChunks(before, 12, 5)(**batch(LENGTHS)).loss, before)
    options = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    run = trainer(
        module,
        tmp_path,
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        **options,
    )
    run.train()
    olds = dict(before.named_parameters())
    steps = {n: (olds[n] - p).detach() / 0.1 for n, p in model.named_parameters()}
    assert largest_difference(steps, expected) < 1e-4  # fp32, of weights of size 1


def test_evaluation_does_not_depend_on_the_batch_size(tmp_path):
    module = CausalChunks(causal("llama"), 12, 5).eval()
    with torch.no_grad():
        found = module(**batch(LENGTHS))
    losses, plain = [], []
    for size in (1, 2, 3, 4):
        run = trainer(module, tmp_path, per_device_eval_batch_size=size)
        metrics = run.evaluate()
        assert metrics["eval_scored_tokens"] == sum(LENGTHS) - len(LENGTHS)
        losses.append(metrics["eval_loss"])
        run.compute_metrics = None
        plain.append(run.evaluate()["eval_loss"])
    assert losses == pytest.approx([float(found.loss)] * 4, rel=1e-6)
    assert plain[0] != pytest.approx(plain[3], rel=1e-3)  # what Trainer computes without the metric


def test_metric_of_another_model():
    prediction = transformers.EvalPrediction(predictions=torch.zeros(2, 3).numpy(), label_ids=None)
    with pytest.raises(TypeError, match="prediction: got predictions of type ndarray"):
        token_loss(prediction)


def test_label_smoothing_of_the_trainer(tmp_path):
    run = trainer(CausalChunks(causal("llama").float(), 12, 5), tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(KeyError, match=r"logits: .* pass label_smoothing= to the module"):
        run.train()


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_trainer_saves_and_resumes(name, tmp_path):
    options = {"per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2, "seed": 1}
    module = CausalChunks(causal(name).float(), 12, 5, recompute=True)
    trainer(module, tmp_path, max_steps=4, **options).train()
    again = CausalChunks(causal(name).float(), 12, 5, recompute=True)
    resumed = trainer(again, tmp_path, max_steps=4, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    pairs = zip(module.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_best_model_by_the_token_loss(tmp_path):
    module = CausalChunks(causal("tied").float(), 12, 5)
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    run = trainer(module, tmp_path, max_steps=3, load_best_model_at_end=True, **options)
    run.train()
    logged = [row["eval_loss"] for row in run.state.log_history if "eval_loss" in row]
    assert run.state.best_metric == min(logged)
    assert run.evaluate()["eval_loss"] == pytest.approx(min(logged), rel=1e-5)


def test_the_inner_model_is_saved_as_before(tmp_path):
    model = causal("tied")
    keys = list(model.state_dict())
    module = CausalChunks(model, 12, 5)
    assert list(model.state_dict()) == keys and "lm_head.weight" in keys
    assert {f"model.{key}" for key in keys if key != "lm_head.weight"} == set(module.state_dict())
    other = CausalChunks(causal("tied"), 12, 5)
    torch.nn.init.zeros_(other.model.lm_head.weight)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.model.lm_head.weight, model.lm_head.weight)
    module.model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = token_ids(20)[None]
    torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
def test_lora(targets):
    """Adapters of the layers, and one of the head, which is then no linear layer alone."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(causal("mistral"), peft.LoraConfig(target_modules=targets, r=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ids = token_ids(40)[None]
    whole = model(input_ids=ids, labels=ids).loss.double()
    expected = gradients(whole, model)
    for recompute in (False, True):
        found = CausalChunks(model, 20, 10, recompute=recompute)(ids).loss
        torch.testing.assert_close(found, whole, rtol=1e-6, atol=0)
        assert largest_difference(gradients(found, model), expected) < 1e-5


@pytest.mark.parametrize("method", ["prompt tuning", "prefix tuning"])
def test_prompts(method):
    """Each chunk reads the virtual tokens; a document of one chunk has the loss of the model."""
    peft = pytest.importorskip("peft")
    kind = peft.PromptTuningConfig if method == "prompt tuning" else peft.PrefixTuningConfig
    model = peft.get_peft_model(causal("llama"), kind(task_type="CAUSAL_LM", num_virtual_tokens=4)).double()
    ids = token_ids(12)[None]
    labels = torch.cat([torch.full((1, 1), -100), ids[:, 1:]], 1)  # else PEFT scores the first token too
    expected = model(input_ids=ids, labels=labels).loss.double()
    found = CausalChunks(model, 12, 5)(ids).loss
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert largest_difference(gradients(found, model), gradients(expected, model)) < 1e-5
    with pytest.raises(ValueError, match="64 positions and 4 virtual tokens"):
        CausalChunks(model, 61, 5)


def test_a_patched_decoder():
    """A window makes a decoder with full attention one whose chunks have the loss of the whole document."""
    model = causal("llama")
    ids = token_ids(60)[None]
    lckernels.patch(model, window=5)
    whole = model(input_ids=ids, labels=ids).loss.double()
    expected = gradients(whole, model)
    for recompute in (False, True):
        found = CausalChunks(model, 16, 8, recompute=recompute, max_tokens=32)(ids).loss
        torch.testing.assert_close(found, whole, rtol=1e-6, atol=0)
        assert largest_difference(gradients(found, model), expected) < 1e-5
    lckernels.unpatch(model)
    assert (CausalChunks(model, 16, 8)(ids).loss - whole).abs() > 1e-4


@pytest.mark.parametrize("module", [CausalChunks, MaskedChunks])
def test_gradient_checkpointing_of_the_model(module):
    model = causal("llama") if module is CausalChunks else masked("bert")
    chunks, documents = module(model, 12, 5), batch([40, 20])
    expected = gradients(chunks(**documents).loss, model)
    name = "activation_checkpointing_enable"  # before transformers 5.24 "gradient_checkpointing_enable"
    getattr(chunks, name if hasattr(model, name) else "gradient_checkpointing_enable")()
    assert model.is_gradient_checkpointing
    assert largest_difference(gradients(chunks(**documents).loss, model), expected) < 1e-12


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    store = tmp_path_factory.mktemp("gloo") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("apart", [False, True], ids=["head with the rest", "head apart"])
@pytest.mark.parametrize("recompute", [False, True])
def test_fsdp2(group, apart, recompute):
    model = causal("llama")
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    module = CausalChunks(model, 12, 5, recompute=recompute, max_tokens=30)
    for part in (*model.model.layers, *([model.lm_head] if apart else []), module):
        fully_shard(part, mesh=mesh)
    module(**batch([50, 3])).loss.backward()
    found = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    plain = causal("llama")
    expected = gradients(CausalChunks(plain, 12, 5)(**batch([50, 3])).loss, plain)
    assert largest_difference(found, expected) < 1e-12


def step_of_rank(rank):
    model = causal("llama")
    module = DistributedDataParallel(CausalChunks(model, 12, 5, recompute=rank == 1, max_tokens=24))
    lengths = [[50, 3], [1]][rank]  # the second process has nothing to score
    documents = batch(lengths)
    items = torch.tensor(sum(n - 1 for n in (50, 3, 1)))
    loss = module(**documents, num_items_in_batch=items).loss * WORLD  # DDP takes the mean
    loss.backward()
    torch.distributed.all_reduce(total := loss.detach() / WORLD)
    return {"loss": total, **{n: p.grad for n, p in model.named_parameters()}}


def test_two_processes_with_uneven_documents(tmp_path):
    found, _ = in_two_processes(step_of_rank, tmp_path)
    model = causal("llama")
    whole = CausalChunks(model, 12, 5)(**batch([50, 3])).loss
    torch.testing.assert_close(found.pop("loss"), whole.detach(), rtol=1e-9, atol=0)
    assert largest_difference(found, gradients(whole, model)) < 1e-9
