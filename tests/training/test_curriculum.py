"""LengthCurriculum: which documents Trainer reads when, with resumption, grouping and accumulation."""

# ruff: noqa: E402
from itertools import chain

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from helpers.trainer_runs import base, documents, read_all, read_any_length, trainer

from lckernels.training import LengthCurriculum

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore::FutureWarning")]

TASK = "sequence classification"
WORDS = (10, 90, 14, 40, 20, 120, 12, 60)
STAGES = {0.0: 20, 0.5: 64, 0.75: None}  # with [CLS] and [SEP]


class Recorder(transformers.DataCollatorWithPadding):
    """Keeps the tokens of the documents of each batch."""

    def __call__(self, features):
        self.__dict__.setdefault("batches", []).append([len(row["input_ids"]) for row in features])
        return super().__call__(features)


def run(folder, resume=None, curriculum=True, **options):
    """The lengths of the documents of each batch, and the trained model."""
    data = documents(TASK, WORDS)
    before = [dict(row) for row in data]
    lengths = [len(row["input_ids"]) for row in data]
    callbacks = [LengthCurriculum(lengths, STAGES)] if curriculum else []
    recorder, model = Recorder(read_all()), read_any_length(base(TASK), TASK)
    own = {"callbacks": callbacks, "data_collator": recorder}
    made = trainer(model, TASK, folder, data, trainer=own, **{"num_train_epochs": 4, **options})
    made.train(resume_from_checkpoint=resume)
    assert data == before
    assert made.train_dataset is data
    return recorder.batches, model, made


def test_longer_documents_come_later(tmp_path):
    batches, _, made = run(tmp_path, save_strategy="no")
    assert made.state.global_step == len(batches) == 16  # as without it
    assert all(max(batch) <= 20 for batch in batches[:8])
    assert all(max(batch) <= 64 for batch in batches[8:12]) and max(map(max, batches[8:12])) > 20
    assert sorted(chain(*batches[12:])) == sorted(n + 2 for n in WORDS)
    # Each document that fits is read equally often, up to one an epoch.
    early = list(chain(*batches[:8]))
    counts = [early.count(n + 2) for n in WORDS if n + 2 <= 20]
    assert sum(counts) == len(early) and max(counts) - min(counts) <= 2


def test_a_stage_begins_within_an_epoch(tmp_path):
    batches, *_ = run(tmp_path, num_train_epochs=1, save_strategy="no")
    assert [max(batch) <= 20 for batch in batches[:2]] == [True, True]
    assert max(batches[2]) <= 64 and len(batches) == 4


@pytest.mark.parametrize("step, strategy", [(6, "random"), (8, "random"), (6, "group_by_length")])
def test_a_run_continues_with_the_same_documents(step, strategy, tmp_path):
    """From a checkpoint within an epoch and at its end."""
    options = {"train_sampling_strategy": strategy}
    batches, model, _ = run(tmp_path, save_steps=2, **options)
    checkpoint = str(tmp_path / f"checkpoint-{step}")
    again, other, _ = run(tmp_path, resume=checkpoint, save_strategy="no", **options)
    assert again[-len(batches[step:]) :] == batches[step:]
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_batches_of_similar_length(tmp_path):
    """Trainer's own grouping remains, within the documents of a stage."""
    options = {"train_sampling_strategy": "group_by_length", "save_strategy": "no"}
    batches, *_ = run(tmp_path, **options)
    assert all(max(batch) <= 20 for batch in batches[:8])
    assert sorted(chain(*batches[12:])) == sorted(n + 2 for n in WORDS)
    plain, *_ = run(tmp_path, curriculum=False, **options)
    assert [len(batch) for batch in plain] == [len(batch) for batch in batches]


def test_accumulated_batches_and_a_number_of_steps(tmp_path):
    batches, _, made = run(tmp_path, gradient_accumulation_steps=2, max_steps=8, save_strategy="no")
    assert made.state.global_step == 8 and len(batches) == 16
    assert all(max(batch) <= 20 for batch in batches[:8]) and max(map(max, batches[12:])) > 64


@pytest.mark.parametrize(
    "lengths, stages, kind, error",
    [
        ([5, 9], {0.0: 4, 0.5: None}, ValueError, "lengths: got documents of 5 or more tokens"),
        ([], {0.0: 4}, ValueError, "lengths: "),
        ([5.5], {0.0: 9}, ValueError, r"lengths: got shape \(1,\) of torch.float32; expected .* integers"),
        ([5, -2], {0.0: 9}, ValueError, "lengths: got -2 for document 1; expected integers >= 1"),
        ([0, 5], {0.0: 9}, ValueError, "lengths: got 0 for document 0; expected integers >= 1"),
        (None, {0.0: 9}, ValueError, "lengths: got None; expected a sequence of integers"),
        ([5], {0.5: 9}, ValueError, r"stages: got stages that begin at \[0.5\]; expected the first at 0.0"),
        ([5], {0.0: 9, 1.0: None}, ValueError, "all before 1.0"),
        ([5], {0.0: 9, -0.5: None}, ValueError, "stages: "),
        ([5], {}, ValueError, "expected the first at 0.0"),
        ([5], {0.0: 9, 0.5: 9}, ValueError, "expected limits that increase"),
        ([5], {0.0: None, 0.5: 9}, ValueError, "expected limits that increase"),
        ([5], {0.0: 8.5}, TypeError, "stages: got 8.5; expected an int >= 1 or None"),
        ([5], {0.0: 0}, ValueError, "stages: got 0; expected an int >= 1"),
        ([5], {0.0: 9, 0.5: -3}, ValueError, "stages: got -3; expected an int >= 1"),
        ([5], {"early": 9}, TypeError, "stages: got 'early'; expected a number"),
        ([5], {float("nan"): 9}, ValueError, "stages: got nan; expected a finite number >= 0"),
        ([5], [(0.0, 8)], TypeError, "stages: got list"),
    ],
)
def test_bad_input(lengths, stages, kind, error):
    with pytest.raises(kind, match=error):
        LengthCurriculum(lengths, stages)


def test_lengths_of_another_dataset(tmp_path):
    own = {"callbacks": [LengthCurriculum([5, 6], {0.0: 5, 0.5: None})]}
    made = trainer(base(TASK), TASK, tmp_path, documents(TASK, (5, 6, 7)), trainer=own, max_steps=1)
    with pytest.raises(ValueError, match="lengths: got 2 lengths; train_dataset has 3 documents"):
        made.train()


def test_a_dataset_without_a_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(documents(TASK, (5, 6)))

    own = {"callbacks": [LengthCurriculum([5, 6], {0.0: 5, 0.5: None})]}
    made = trainer(base(TASK), TASK, tmp_path, Stream(), trainer=own, max_steps=1)
    with pytest.raises(ValueError, match="train_dataset: got Stream without a sampler"):
        made.train()
