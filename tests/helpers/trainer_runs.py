"""Tiny lengthened models of each task, each method of tuning, and Trainer on documents of ragged lengths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from helpers.encoder_models import PAD, SEP, SIZES, VOCAB, WIDE
from helpers.word_tokenizer import word_tokenizer, words
from torch import Tensor, nn

import lckernels

POSITIONS = 32  # of a tiny model
LENGTHS = (40, 12, 100, 250, 30, 70)  # words of a document; four are longer than a chunk
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
_IDS = {"pad_token_id": PAD, "eos_token_id": SEP, "decoder_start_token_id": PAD}
# By task: class of the model, PEFT's name of the task, collator.
TASKS = {
    "token classification": ("BertForTokenClassification", "TOKEN_CLS", "DataCollatorForTokenClassification"),
    "sequence classification": ("BertForSequenceClassification", "SEQ_CLS", "DataCollatorWithPadding"),
    "question answering": ("BertForQuestionAnswering", "QUESTION_ANS", "DataCollatorWithPadding"),
    "seq2seq (T5)": ("T5ForConditionalGeneration", "SEQ_2_SEQ_LM", "DataCollatorForSeq2Seq"),
}
METHODS = (
    "full fine-tuning", "LoRA", "AdaLoRA", "IA3", "prompt tuning", "prefix tuning", "bottleneck adapters"
)  # fmt: skip
CLASSES, SEQ2SEQ = 3, "seq2seq (T5)"
# AdaLoRA has chosen its ranks after its third step.
ADALORA = {"total_step": 4, "tinit": 0, "tfinal": 2, "init_r": 4, "target_r": 2}
_NO_KEYS = (
    "`lengthen` raises: its chunks have no keys before their tokens. PEFT 0.21 raises too with transformers "
    "5.24, where the argument of the keys has another name"
)
_NO_LABELS = "PEFT 0.21 adds no labels for its virtual tokens, with and without lckernels"
# What is not possible, and why; (task, method) -> (the error's text, the reason).
NOT_POSSIBLE = {
    ("token classification", "prompt tuning"): ("Expected input batch_size", _NO_LABELS),
    **{
        (task, "prefix tuning"): ("with prefix tuning, whose keys", _NO_KEYS)
        for task in TASKS
        if task != SEQ2SEQ
    },
}
# What is possible in part, and which part is not.
_NO_RESUME = (
    "no run continues from a checkpoint with chosen ranks: PEFT 0.21 loads it into a model of all ranks"
)
_NOT_MOVED = "PEFT 0.21 does not move the positions of an answer behind its virtual tokens: add their number"
IN_PART = {
    **{(task, "AdaLoRA"): _NO_RESUME for task in TASKS},
    ("question answering", "prompt tuning"): _NOT_MOVED,
}
VIRTUAL = 4


class Bottleneck(nn.Module):
    """A layer and an adapter behind it: down, GELU, up, beside the identity."""

    def __init__(self, layer: nn.Module, dim: int) -> None:
        super().__init__()
        self.layer = layer
        self.down, self.up = nn.Linear(dim, 4), nn.Linear(4, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x + self.up(nn.functional.gelu(self.down(x)))


class Allocate(transformers.TrainerCallback):
    """AdaLoRA's call after each step of the optimizer, which Trainer does not make."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.base_model.update_and_allocate(state.global_step)


def base(task: str) -> nn.Module:
    """The tiny model with its random weights, the same each time."""
    torch.manual_seed(0)
    name = TASKS[task][0]
    if task == SEQ2SEQ:
        return getattr(transformers, name)(transformers.T5Config(vocab_size=VOCAB, **_T5, **_IDS))
    sizes = {**SIZES, **WIDE, "max_position_embeddings": POSITIONS, "initializer_range": 0.2}
    return getattr(transformers, name)(transformers.BertConfig(**sizes, num_labels=_num_labels(task)))


def tuned(model: nn.Module, task: str, method: str) -> nn.Module:
    """The model with what the method adds."""
    torch.manual_seed(1)
    if method == "full fine-tuning":
        return model
    if method == "bottleneck adapters":
        return _with_bottlenecks(model, task)
    return peft.get_peft_model(model, _config(task, method))


def read_any_length(model: nn.Module, task: str) -> nn.Module:
    """The model after `lengthen`."""
    sizes = {"chunk_len": POSITIONS} if task == SEQ2SEQ else {}
    lckernels.lengthen(model, word_tokenizer(), **sizes)
    return model


def made(task: str, method: str) -> nn.Module:
    """A tuned model that reads documents of any length."""
    return read_any_length(tuned(base(task), task, method), task)


def without_dropout(model: nn.Module) -> nn.Module:
    """The model in fp64, whose training forwards are those of evaluation."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # T5's attention
            module.dropout = 0.0
    return model.double()


def documents(task: str, lengths: Sequence[int] = LENGTHS) -> list[dict[str, Any]]:
    """A dataset of documents with so many words, each with its labels."""
    tokenizer = read_all()
    found = []
    for i, length in enumerate(lengths):
        row = dict(tokenizer(words(length, i)))
        ids = row["input_ids"]
        if task == "token classification":
            row["labels"] = [-100, *(x % CLASSES for x in ids[1:-1]), -100]
        elif task == "sequence classification":
            row["labels"] = i % CLASSES
        elif task == "question answering":
            row |= {"start_positions": length // 2, "end_positions": length // 2 + i % 3}
        else:
            del row["token_type_ids"]
            row["labels"] = ids[3 : 6 + i % 3]
        found.append(row)
    return found


def read_all() -> Any:
    """The tokenizer without a limit."""
    return word_tokenizer(limit=10**9)


def trainer(model: nn.Module, task: str, folder: Path, data: Any, **options: Any) -> transformers.Trainer:
    """Trainer as it is; `options` of TrainingArguments, and of Trainer under "trainer"."""
    own = options.pop("trainer", {})
    arguments = transformers.TrainingArguments(
        str(folder), use_cpu=True, disable_tqdm=True, seed=0,
        **{
            "learning_rate": 5e-3, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 4,
            "report_to": [], **options,
        },
    )  # fmt: skip
    tokenizer = read_all()
    collator = getattr(transformers, TASKS[task][2])(tokenizer)
    data = {"train_dataset": data, "eval_dataset": data}
    return transformers.Trainer(
        model, arguments, **{**data, "data_collator": collator, "processing_class": tokenizer, **own}
    )


def loaded(task: str, method: str, folder: Path) -> nn.Module:
    """The saved model, read by PEFT alone (its adapters) or transformers alone, then lengthened."""
    if method == "full fine-tuning":
        model = getattr(transformers, TASKS[task][0]).from_pretrained(folder)
    elif method == "bottleneck adapters":
        from safetensors.torch import load_model

        model = tuned(base(task), task, method)
        load_model(model, folder / "model.safetensors")
    else:
        # PEFT 0.21 raises for labels in an AdaLoRA model that is not trainable.
        model = peft.PeftModel.from_pretrained(base(task), folder, is_trainable=method == "AdaLoRA")
    return read_any_length(model, task)


def outputs(model: nn.Module, task: str, data: Sequence[dict[str, Any]]) -> list[Tensor]:
    """The logits of each document alone."""
    collator = getattr(transformers, TASKS[task][2])(read_all())
    with torch.no_grad():
        found = [model.eval()(**collator([row])) for row in data]
    names = ("start_logits", "end_logits") if task == "question answering" else ("logits",)
    return [getattr(out, name) for out in found for name in names]


def _num_labels(task: str) -> int:
    return 2 if task == "question answering" else CLASSES


def _config(task: str, method: str) -> peft.PeftConfig:
    of_t5 = task == SEQ2SEQ
    layers, feed_forward = (["q", "v"], "wo") if of_t5 else (["query", "value"], "output.dense")
    shared = {"task_type": TASKS[task][1]}
    if method in ("prompt tuning", "prefix tuning"):
        kind = peft.PromptTuningConfig if method == "prompt tuning" else peft.PrefixTuningConfig
        return kind(**shared, num_virtual_tokens=VIRTUAL)
    if method == "IA3":
        return peft.IA3Config(
            **shared, target_modules=[*layers, feed_forward], feedforward_modules=[feed_forward]
        )
    if method == "AdaLoRA":
        return peft.AdaLoraConfig(**shared, target_modules=layers, **ADALORA)
    return peft.LoraConfig(**shared, target_modules=layers, r=4)


def _with_bottlenecks(model: nn.Module, task: str) -> nn.Module:
    """Adapters behind the feed-forward of each layer; all else but a head of its own is frozen."""
    name = "DenseReluDense" if task == SEQ2SEQ else "output.dense"
    for parameter in model.parameters() if task == SEQ2SEQ else model.base_model.parameters():
        parameter.requires_grad_(False)
    for path, module in list(model.named_modules()):
        if path.endswith(f".{name}") and ".attention." not in path:
            parent, _, last = path.rpartition(".")
            setattr(model.get_submodule(parent), last, Bottleneck(module, WIDE["hidden_size"]))
    return model
