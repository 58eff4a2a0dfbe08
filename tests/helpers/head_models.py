"""Tiny models of eight architectures with each task head, and what their heads compute from states."""

import torch
import transformers
from helpers.encoder_models import CLS, FAMILIES, SEP, SIZES, WIDE
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

NUM_LABELS = 3
_DEBERTA = {
    **WIDE, "max_position_embeddings": 32, "relative_attention": True, "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "type_vocab_size": 2,
}  # fmt: skip
_MODERNBERT = {
    **WIDE, "max_position_embeddings": 32, "num_hidden_layers": 4, "local_attention": 8,
    "global_attn_every_n_layers": 3, "initializer_cutoff_factor": 3.0, "cls_token_id": CLS,
    "sep_token_id": SEP, "bos_token_id": CLS, "eos_token_id": SEP,
}  # fmt: skip
# Class of the config, its sizes, name of the classes of models. Each reads 32 tokens.
CONFIGS = {
    **{name: (*FAMILIES[name], prefix) for name, prefix in {
        "bert": "Bert", "roberta": "Roberta", "xlm_roberta": "XLMRoberta", "distilbert": "DistilBert",
        "electra": "Electra", "mpnet": "MPNet",
    }.items()},
    "deberta_v2": (transformers.DebertaV2Config, _DEBERTA, "DebertaV2"),
    "modernbert": (transformers.ModernBertConfig, _MODERNBERT, "ModernBert"),
}  # fmt: skip
HEADS = (
    "TokenClassification", "SequenceClassification", "QuestionAnswering", "MultipleChoice", "MaskedLM",
)  # fmt: skip
TYPED = ("bert", "electra", "deberta_v2")  # with token types
DOUBLE = ("roberta", "xlm_roberta", "mpnet")  # with two separators between segments


def head_model(family: str, head: str, **sizes) -> transformers.PreTrainedModel:
    """The model in eval mode, in fp64, with weights of std 0.2."""
    config_class, of_family, prefix = CONFIGS[family]
    sizes = {**SIZES, "initializer_range": 0.2, **of_family, **sizes}
    if family in DOUBLE:
        sizes |= {"bos_token_id": CLS, "eos_token_id": SEP}
    if "roberta" in family:  # as of the published models; the default is 2
        sizes["type_vocab_size"] = 1
    if family == "distilbert":
        sizes = {name: size for name, size in sizes.items() if not name.startswith("num_")}
        sizes["sep_token_id"] = SEP
    sizes["problem_type"] = "single_label_classification"  # without which DeBERTa-v2's loss is in fp32
    sizes["num_labels"] = 2 if head == "QuestionAnswering" else NUM_LABELS
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix}For{head}")(config_class(**sizes)).double().eval()
    with torch.no_grad():  # zero where transformers initializes them
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.2)
    return model


def encoder_of(model: nn.Module) -> nn.Module:
    return getattr(model, model.base_model_prefix)


def head_logits(model: nn.Module, head: str, states: Tensor, mask: Tensor) -> Tensor:
    """What the head's own modules compute from states (rows, seqlen, dim); the mask is 0 in padding.

    (rows, seqlen, labels), (rows, seqlen, 2), (rows, seqlen, vocabulary), (rows, labels), or (1, rows) of
    choices.
    """
    if head == "MaskedLM":
        return _vocabulary(model, states)
    if head == "QuestionAnswering" and hasattr(model, "qa_outputs"):
        return model.qa_outputs(states)
    pooled = head in ("SequenceClassification", "MultipleChoice")
    if model.config.model_type == "modernbert":
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        read = mean if model.config.classifier_pooling == "mean" else states[:, 0]
        logits = model.classifier(model.head(read if pooled else states))
    else:
        logits = model.classifier(_summary(model, head, states) if pooled else states)
    return logits.T if head == "MultipleChoice" else logits


def _summary(model: nn.Module, head: str, states: Tensor) -> Tensor:
    """What the classifier reads."""
    kind, encoder = model.config.model_type, encoder_of(model)
    if kind == "distilbert":
        return model.pre_classifier(states[:, 0]).relu()
    if kind == "deberta-v2":
        return model.pooler(states)
    if kind == "bert":
        return encoder.pooler(states)
    if head == "SequenceClassification":  # whose classifier reads the first state
        return states
    return model.sequence_summary(states) if kind == "electra" else encoder.pooler(states)


def _vocabulary(model: nn.Module, states: Tensor) -> Tensor:
    kind = model.config.model_type
    if kind == "distilbert":
        return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(states))))
    if kind == "electra":
        return model.generator_lm_head(model.generator_predictions(states))
    if kind == "modernbert":
        return model.decoder(model.head(states))
    return (model.cls if hasattr(model, "cls") else model.lm_head)(states)


def output_logits(output: object, head: str) -> Tensor:
    """The logits of a model's output, in the form of `head_logits`."""
    if head == "QuestionAnswering":
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    return output.logits


def head_labels(head: str, lengths: list[int], width: int) -> dict[str, Tensor]:
    """The arguments with which a model returns its loss, for rows of these lengths.

    The first label of tokens and padding are not counted.
    """
    if head == "QuestionAnswering":
        return {
            "start_positions": torch.tensor([n // 2 for n in lengths]),
            "end_positions": torch.tensor([n - 2 for n in lengths]),
        }
    if head == "MultipleChoice":
        return {"labels": torch.tensor([len(lengths) - 1])}
    if head == "SequenceClassification":
        return {"labels": torch.arange(len(lengths)) % NUM_LABELS}
    labels = torch.arange(len(lengths) * width).reshape(len(lengths), width) % NUM_LABELS
    for row, length in enumerate(lengths):
        labels[row, length:], labels[row, 0] = -100, -100
    return {"labels": labels}


def head_loss(head: str, logits: Tensor, labels: dict[str, Tensor]) -> Tensor:
    """The head's loss, from `head_logits`."""
    if head == "QuestionAnswering":
        ends = ("start_positions", "end_positions")
        return sum(cross_entropy(logits[..., i], labels[name]) for i, name in enumerate(ends)) / 2
    return cross_entropy(logits.flatten(0, -2), labels["labels"].flatten())
