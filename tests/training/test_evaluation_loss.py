"""A loss per label in Trainer's evaluation of lengthened models, whatever the batch size."""

# ruff: noqa: E402
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from helpers.trainer_runs import SEQ2SEQ, TASKS, base, documents, outputs, read_all, read_any_length, trainer

from lckernels.training import document_losses, token_loss

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore::FutureWarning")]

ANSWERS = "question answering"
PER_LABEL = {"preprocess_logits_for_metrics": document_losses, "compute_metrics": token_loss}
LENGTHS = (40, 12, 100, 25, 70)  # five documents: a last batch is smaller


def by_hand(task, logits, data):
    """The mean of the cross entropies of all labels of all documents."""
    if task == "question answering":
        labels = [torch.tensor([row[name]]) for row in data for name in ("start_positions", "end_positions")]
    elif task == "sequence classification":
        labels = [torch.tensor([row["labels"]]) for row in data]
    else:
        labels = [torch.tensor(row["labels"]) for row in data]
    flat = [x.reshape(len(y), -1) for x, y in zip(logits, labels, strict=True)]
    losses = [cross_entropy(*pair, reduction="sum") for pair in zip(flat, labels, strict=True)]
    count = sum(int((y != -100).sum()) for y in labels)
    return float(sum(losses)) / count, count


def evaluated(model, task, folder, data, size, own):
    return trainer(model, task, folder, data, per_device_eval_batch_size=size, trainer=own).evaluate()


@pytest.mark.parametrize("task", [task for task in TASKS if task != ANSWERS])
def test_it_does_not_depend_on_the_batch_size(task, tmp_path):
    model, data = read_any_length(base(task), task), documents(task, LENGTHS)
    found = [evaluated(model, task, tmp_path, data, size, PER_LABEL) for size in (1, 2, 5)]
    plain = [evaluated(model, task, tmp_path, data, size, {})["eval_loss"] for size in (1, 5)]
    expected, count = by_hand(task, outputs(model, task, data), data)
    assert [metrics["eval_scored_tokens"] for metrics in found] == [count] * 3
    assert [metrics["eval_loss"] for metrics in found] == pytest.approx([expected] * 3, rel=1e-5)
    if task != "sequence classification":  # of one label a document Trainer's own is right
        assert plain[0] != pytest.approx(plain[1], rel=1e-4)


def test_question_answering_with_documents_padded_to_one_length(tmp_path):
    """The softmax of transformers' head is over padding too: a document's loss depends on padding."""
    model, data = read_any_length(base(ANSWERS), ANSWERS), documents(ANSWERS, LENGTHS)
    collator = transformers.DataCollatorWithPadding(read_all(), padding="max_length", max_length=120)
    padded = {**PER_LABEL, "data_collator": collator}
    found = [evaluated(model, ANSWERS, tmp_path, data, size, padded)["eval_loss"] for size in (1, 2, 5)]
    with torch.no_grad():
        alone = [model.eval()(**collator([row])) for row in data]
    logits = [x for out in alone for x in (out.start_logits, out.end_logits)]
    assert found == pytest.approx([by_hand(ANSWERS, logits, data)[0]] * 3, rel=1e-5)
    longest = [evaluated(model, ANSWERS, tmp_path, data, size, PER_LABEL)["eval_loss"] for size in (1, 5)]
    assert longest[0] != pytest.approx(longest[1], rel=1e-2)


def test_columns_of_other_processes():
    """Trainer pads the logits of a process to those of the longest one, before their losses."""
    start, end = torch.randn(3, 6), torch.randn(3, 6)
    start[:, 5] = end[:, 4] = -100.0  # columns of the model: the other position has a value there
    positions = torch.tensor([2, 5, 6]), torch.tensor([4, 5, 8])  # the last document is past the end
    alone = document_losses((start, end), positions)
    padded = document_losses(
        tuple(torch.nn.functional.pad(x, (0, 4), value=-100) for x in (start, end)), positions
    )
    assert alone[1].tolist() == padded[1].tolist() == [2, 2, 0]
    torch.testing.assert_close(padded[0], alone[0], rtol=0, atol=0)


def test_documents_without_a_column():
    losses, counts = document_losses((torch.full((2, 3), -100.0),) * 2, (torch.zeros(2).long(),) * 2)
    assert losses.tolist() == [0, 0] and counts.tolist() == [0, 0]
    losses, counts = document_losses((torch.zeros(0, 3),) * 2, (torch.zeros(0).long(),) * 2)
    assert losses.tolist() == counts.tolist() == []


def test_metrics_of_single_batches(tmp_path):
    """With batch_eval_metrics Trainer calls the metric for each batch."""
    model, data = read_any_length(base(ANSWERS), ANSWERS), documents(ANSWERS, LENGTHS)
    made = trainer(model, ANSWERS, tmp_path, data, batch_eval_metrics=True, trainer=PER_LABEL)
    with pytest.raises(ValueError, match=r"compute_result: got False; .* batch_eval_metrics=False"):
        made.evaluate()


def test_labels_of_the_next_token():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[1, 3:] = -100
    losses, counts = document_losses(logits, labels, shift=True)
    assert counts.tolist() == [4, 2]
    for row, loss in enumerate(losses):
        expected = cross_entropy(logits[row, :-1], labels[row, 1:], reduction="sum")
        torch.testing.assert_close(loss, expected)


def test_half_precision_is_summed_in_fp32():
    logits, labels = torch.randn(1, 3000, 7).bfloat16(), torch.randint(0, 7, (1, 3000))
    losses, _ = document_losses(logits, labels)
    torch.testing.assert_close(losses[0], cross_entropy(logits[0].float(), labels[0], reduction="sum"))


def test_positions_outside_of_a_document():
    """As in the heads of transformers: a position past the end is ignored, a negative one is 0."""
    start, end = torch.randn(3, 6), torch.randn(3, 6)
    positions = torch.tensor([2, 6, -1]), torch.tensor([4, 9, 5])
    losses, counts = document_losses((start, end), positions)
    assert counts.tolist() == [2, 0, 2] and losses[1] == 0
    first = cross_entropy(start[:1], torch.tensor([2])) + cross_entropy(end[:1], torch.tensor([4]))
    last = cross_entropy(start[2:], torch.tensor([0])) + cross_entropy(end[2:], torch.tensor([5]))
    torch.testing.assert_close(losses[[0, 2]], torch.stack([first, last]))


@pytest.mark.parametrize(
    "logits, labels, error",
    [
        (torch.zeros(2, 1), torch.zeros(2), "labels: got torch.float32.*expected int64 classes"),
        (torch.zeros(2, 3), torch.zeros(2, 3), "labels: got torch.float32.*expected int64 classes"),
        (torch.zeros(2, 3), None, "labels: got NoneType; expected int64 classes"),
        (torch.zeros(2, 3), torch.zeros(2, 3).long(), r"logits: got shape \(2, 3\).*labels \(2, 3\)"),
        (torch.zeros(2, 5, 3), torch.zeros(2, 4).long(), r"logits: got shape \(2, 5, 3\).*labels \(2, 4\)"),
        (torch.zeros(2, 3), (torch.zeros(2).long(),) * 2, "logits: got Tensor; expected a tuple"),
        (None, torch.zeros(2).long(), "logits: got NoneType; expected a floating point tensor"),
        ((), torch.zeros(2).long(), "logits: got tuple; expected a floating point tensor"),
        (torch.zeros(2, 3).long(), torch.zeros(2).long(), "logits: got torch.int64; expected a floating"),
        (torch.tensor(0.0), torch.zeros(2).long(), r"logits: got shape \(\); expected the classes"),
        (torch.zeros(3), torch.tensor(1), r"labels: got torch.int64 of shape \(\); expected int64 classes"),
        ((torch.zeros(2), torch.zeros(2)), (torch.zeros(2).long(),) * 2, r"logits: got a tuple of \[\(2,\)"),
        ((None, torch.zeros(2, 3)), (torch.zeros(2).long(),) * 2, r"logits: got a tuple of \['NoneType', "),
    ],
)
def test_what_is_no_class(logits, labels, error):
    with pytest.raises(TypeError, match=error):
        document_losses(logits, labels)


@pytest.mark.parametrize("label", [3, -1])
def test_unknown_classes(label):
    for shape in ((2,), (2, 5)):
        labels = torch.full(shape, -100)
        labels[-1] = label
        with pytest.raises(ValueError, match=f"labels: got {label}; expected classes from 0 to 2, or -100"):
            document_losses(torch.zeros(*shape, 3), labels)


@pytest.mark.parametrize("rows, columns, shift", [(0, 5, False), (2, 0, False), (2, 1, True), (2, 0, True)])
def test_nothing_to_score(rows, columns, shift):
    """No documents, or documents without a label."""
    labels = torch.zeros(rows, columns).long()
    losses, counts = document_losses(torch.randn(rows, columns, 3), labels, shift=shift)
    assert losses.tolist() == [0.0] * rows and counts.tolist() == [0] * rows


@pytest.mark.parametrize("labels", [torch.zeros(2).long(), (torch.zeros(2).long(),) * 2])
def test_a_shift_requires_labels_of_tokens(labels):
    with pytest.raises(TypeError, match=r"labels: got .* with shift=True; expected \(batch, seqlen\)"):
        document_losses(torch.zeros(2, 3), labels, shift=True)


def test_states_beside_the_logits_are_not_kept(tmp_path):
    """T5's output has the document's states, which Trainer would collect."""
    model, data = read_any_length(base(SEQ2SEQ), SEQ2SEQ), documents(SEQ2SEQ, LENGTHS)
    predictions = trainer(model, SEQ2SEQ, tmp_path, data, trainer=PER_LABEL).predict(data).predictions
    assert [x.shape for x in predictions] == [(len(LENGTHS),)] * 2


def test_positions_are_two_of_each_document():
    """BertForPreTraining has a tuple of labels too: of tokens and of the next sentence."""
    labels = torch.zeros(2, 5).long(), torch.zeros(2).long()
    with pytest.raises(
        TypeError, match=r"labels: got a tuple of \[\(2, 5\), \(2,\)\]; expected start and end"
    ):
        document_losses((torch.zeros(2, 5), torch.zeros(2, 5)), labels)


@pytest.mark.parametrize(
    "counts", [np.zeros((2, 5), "float32"), np.zeros(2, "float32"), np.zeros(3, "int64"), None]
)
def test_predictions_of_another_kind(counts):
    """Start and end logits of question answering are two arrays as well."""
    prediction = transformers.EvalPrediction((np.zeros(2, "float32"), counts), None)
    with pytest.raises(TypeError, match="prediction: got predictions of type tuple; expected those of"):
        token_loss(prediction)
