#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU), transformers 5.24.0, accelerate 1.15.0.
# Behaviour: under Trainer with gradient_accumulation_steps=k, the gradient of one optimizer step is k times that of the
#   same rows in one batch for BertForTokenClassification, BertForSequenceClassification and BertForMaskedLM. Trainer
#   leaves the division by k to any model whose forward has **kwargs; these forwards have them, and their losses ignore
#   num_items_in_batch. BertForQuestionAnswering (no key "labels", so nothing is left to it) and LlamaForCausalLM (its loss
#   divides) are right. No warning; a training that changes k to fit its memory changes its learning rate with SGD, and
#   what weight decay and clipping mean with Adam. Reported as huggingface/transformers#47688, open in 5.24.
# Seen on 2026-11-30 (random weights, no dropout, rows of equal length), one SGD step over 8 rows, k=4 against k=1,
#   ratio of the update's norm and of the logged loss:
#   BertForTokenClassification 4.0, 4.0; BertForSequenceClassification 4.0, 4.0; BertForMaskedLM 4.0, 4.0;
#   BertForQuestionAnswering 1.0, 1.0; LlamaForCausalLM 1.0, 1.0
#   BertForTokenClassification with model.accepts_loss_kwargs = False: 1.0, 1.0
# Instead: model.accepts_loss_kwargs = False before Trainer is made (an attribute of the instance; nothing saves it).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 transformers==5.24.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import tempfile

import accelerate
import torch
import transformers

print("torch", torch.__version__, "transformers", transformers.__version__, "accelerate", accelerate.__version__)
transformers.utils.logging.set_verbosity_error()
ROWS, SEQLEN = 8, 10
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0}


def rows(name):
    """8 rows of one length, every token labelled: any split into equal batches has the same mean loss."""
    ids = torch.randint(5, 64, (ROWS, SEQLEN), generator=torch.Generator().manual_seed(1))
    labels = {"Token": ids % 2, "Sequence": ids[:, 0] % 2}.get(name.split("For")[1].split("Class")[0], ids)
    if name.endswith("QuestionAnswering"):
        spans = {"start_positions": ids[:, 0] % SEQLEN, "end_positions": ids[:, 1] % SEQLEN}
    else:
        spans = {"labels": labels}
    return [{"input_ids": ids[i], **{key: x[i] for key, x in spans.items()}} for i in range(ROWS)]


def step(name, k, **attributes):
    """The norm of the update of one SGD step over all rows, in k batches, and the loss that Trainer logs."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name.split('For')[0]}Config")(**SIZES, **NO_DROPOUT)
    model = getattr(transformers, name)(config)
    for attribute, value in attributes.items():
        setattr(model, attribute, value)
    before = [x.detach().clone() for x in model.parameters()]
    with tempfile.TemporaryDirectory() as outputs:
        arguments = transformers.TrainingArguments(
            outputs, per_device_train_batch_size=ROWS // k, gradient_accumulation_steps=k, max_steps=1, optim="sgd",
            learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0.0, logging_steps=1, save_strategy="no",
            report_to="none", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(model, arguments, train_dataset=rows(name))
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    update = torch.cat([(x - y).flatten() for x, y in zip(model.parameters(), before)]).norm().item()
    return update, next(float(x["loss"]) for x in trainer.state.log_history if "loss" in x)


def ratios(name, **attributes):
    """Of the update and of the loss, 4 batches of 2 rows against 1 batch of 8."""
    found = tuple(round(parts / whole, 2) for parts, whole in zip(step(name, 4, **attributes), step(name, 1, **attributes)))
    print(name, attributes or "", "update and loss, k=4 / k=1:", found)
    return found


found = [ratios(f"BertFor{head}") for head in ("TokenClassification", "SequenceClassification", "MaskedLM")]
right = [ratios("BertForQuestionAnswering"), ratios("LlamaForCausalLM")]
right.append(ratios("BertForTokenClassification", accepts_loss_kwargs=False))
raise SystemExit(found != [(4.0, 4.0)] * 3 or right != [(1.0, 1.0)] * 3)
PYTHON
