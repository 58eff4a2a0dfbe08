"""What Trainer reports of a lengthened model to TensorBoard and to Weights & Biases offline, read back."""

import json
import struct

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from helpers.trainer_runs import documents, made, trainer

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore::FutureWarning")]

TASK = "token classification"
# Trainer's name in its log -> the name that a tracker gets.
NAMES = {"loss": "train/loss", "grad_norm": "train/grad_norm", "eval_loss": "eval/loss"}


def trained(folder, tracker):
    options = {"max_steps": 4, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
    run = trainer(made(TASK, "LoRA"), TASK, folder, documents(TASK), report_to=[tracker], **options)
    run.train()
    return run


def logged(run, name):
    """(step, value) of Trainer's own log."""
    return [(row["step"], row[name]) for row in run.state.log_history if name in row]


def test_tensorboard(tmp_path, monkeypatch):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is in the extra dev"
    )
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    run = trained(tmp_path, "tensorboard")
    events = reader.EventAccumulator(str(next((tmp_path / "events").rglob("events.*")).parent))
    events.Reload()
    for name, tag in NAMES.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in logged(run, name)]
        values = [value for _, value in logged(run, name)]
        assert [value for _, value in found] == pytest.approx(values, rel=1e-6)  # fp32


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    """Its service starts in seconds."""
    wandb = pytest.importorskip("wandb", reason="wandb is in the extra wandb, which CI does not install")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": tmp_path, "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, str(value))
    run = trained(tmp_path, "wandb")
    wandb.finish()
    rows = history(next(tmp_path.rglob("run-*.wandb")))
    for name, tag in NAMES.items():
        found = [(row["train/global_step"], row[tag]) for row in rows if tag in row]
        assert [step for step, _ in found] == [step for step, _ in logged(run, name)]
        assert [value for _, value in found] == pytest.approx([value for _, value in logged(run, name)])


def history(path):
    """The rows of a run's file."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
    return rows


def records(data, block=2**15):
    """The records of LevelDB's log format: behind a header of 7 bytes, parts of at most a block."""
    assert data[:4] == b":W&B"
    place, record = 7, b""
    while place < len(data):
        left = block - place % block
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)  # behind a checksum
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""
