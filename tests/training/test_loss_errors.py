"""Bad input of CausalChunks and MaskedChunks: one clear error each."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.language_models import CAUSAL, batch, causal, masked, token_ids

from lckernels.training import CausalChunks, MaskedChunks

DOCUMENTS = batch([20, 7])


def changed(**arguments):
    return {**DOCUMENTS, **arguments}


def on_padding():
    labels = DOCUMENTS["labels"].clone()
    labels[1, 9] = 5
    return labels


def with_hole():
    mask = DOCUMENTS["attention_mask"].clone()
    mask[0, 4] = 0
    return mask


BAD_CALLS = {
    "labels of another length": (changed(labels=DOCUMENTS["labels"][:, :-1]), r"labels: got shape \(2, 19\)"),
    "labels of one document": (changed(labels=DOCUMENTS["labels"][0]), r"labels: got shape \(20,\)"),
    "labels on padding": (
        changed(labels=on_padding()),
        "got label 5 on the padding of row 1, at column 9",
    ),
    "float labels": (changed(labels=DOCUMENTS["labels"].float()), "labels: got dtype torch.float32"),
    "unknown label": (
        changed(labels=DOCUMENTS["labels"].clamp(min=99)),
        "got 99 in row 0, at column 0",
    ),
    "padding inside": (
        changed(attention_mask=with_hole()),
        "got row 0 with padding in the middle",
    ),
    "mask of another length": (
        changed(attention_mask=torch.ones(2, 3)),
        r"mask: got shape \(2, 3\)",
    ),
    "one document": (changed(input_ids=token_ids(20)), r"input_ids: got shape \(20,\)"),
    "float ids": (changed(input_ids=torch.rand(2, 20)), "input_ids: got dtype"),
    "positions": (changed(position_ids=torch.zeros(2, 20)), "position_ids: got Tensor; each chunk has"),
    "embeddings": (
        changed(inputs_embeds=torch.zeros(2, 20, 16)),
        "got Tensor; expected input_ids",
    ),
    "attentions": (changed(output_attentions=True), "output_attentions: got bool; each chunk has"),
    "some logits": (changed(logits_to_keep=1), "logits_to_keep: got int; no logits are kept"),
    "negative items": (changed(num_items_in_batch=-1), "num_items_in_batch: got -1; expected a finite"),
    "negative items in a tensor": (
        changed(num_items_in_batch=torch.tensor([[-3]])),
        "num_items_in_batch: got -3; expected a finite",
    ),
    "unknown items": (changed(num_items_in_batch=torch.tensor(torch.nan)), "num_items_in_batch: got nan; "),
    "no items": (
        changed(num_items_in_batch=torch.tensor(0)),
        "num_items_in_batch: got 0 for a batch with 2[57] scored tokens; expected the scored tokens of all",
    ),
}


@pytest.fixture(scope="module")
def modules():
    return CausalChunks(causal("llama"), 8, 2), MaskedChunks(masked("bert"), 8, 2)


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_call(name, modules):
    arguments, message = BAD_CALLS[name]
    for module in modules:
        with pytest.raises(ValueError, match=message):
            module(**arguments)


def test_lists_are_no_tensors(modules):
    for module in modules:
        with pytest.raises(TypeError, match="input_ids: got list"):
            module([[1, 2]], labels=torch.zeros(1, 2, dtype=torch.long))
        for labels in (DOCUMENTS["labels"], *([None] if isinstance(module, CausalChunks) else [])):
            with pytest.raises(TypeError, match=r"attention_mask: got list; expected a torch\.Tensor"):
                module(**changed(attention_mask=DOCUMENTS["attention_mask"].tolist(), labels=labels))


@pytest.mark.parametrize("items", ["25", True, [25], torch.zeros(0), torch.tensor(True)])
def test_items_that_are_no_number(items, modules):
    for module in modules:
        with pytest.raises(TypeError, match=r"num_items_in_batch: got .*; expected (a|one) number"):
            module(**changed(num_items_in_batch=items))


@pytest.mark.parametrize("items", [50, 50.0, torch.tensor(50), torch.tensor([[50]])])
def test_items_as_trainer_passes_them(items, modules):
    for module in modules:
        found, plain = module(**changed(num_items_in_batch=items)), module(**DOCUMENTS)
        torch.testing.assert_close(found.loss * 50, plain.loss * plain.num_scored.sum())
        nothing = changed(labels=torch.full((2, 20), -100), num_items_in_batch=torch.tensor(0))
        assert module(**nothing, logits_to_keep=0).loss == 0


def test_masked_chunks_require_labels(modules):
    with pytest.raises(ValueError, match="labels: got None"):
        modules[1](DOCUMENTS["input_ids"])


def test_a_document_without_its_special_tokens(modules):
    with pytest.raises(ValueError, match="got row 1 with 1 tokens; expected at least the 2 special"):
        modules[1](**batch([20, 1]))


BAD_SIZES = {
    "overlap of a context": ((8, 8), {}, "overlap: got 8; expected 0 <= overlap < context = 8"),
    "no context": ((0, 0), {}, "context: got 0"),
    "negative overlap": ((8, -1), {}, "overlap: got -1"),
    "beyond the positions": ((65, 8), {}, "context: got 65; LlamaForCausalLM has 64 positions"),
    "no tokens": ((8, 2), {"max_tokens": 0}, "max_tokens: got 0"),
    "smoothing": (
        (8, 2),
        {"label_smoothing": 1.0},
        "label_smoothing: got 1.0; expected 0 <= ",
    ),
}


@pytest.mark.parametrize("name", BAD_SIZES)
def test_bad_sizes(name):
    sizes, options, message = BAD_SIZES[name]
    with pytest.raises(ValueError, match=message):
        CausalChunks(causal("llama"), *sizes, **options)


def test_bad_types():
    with pytest.raises(TypeError, match="recompute: got 1"):
        CausalChunks(causal("llama"), 8, 2, recompute=1)
    with pytest.raises(TypeError, match=r"context: got 8\.0"):
        CausalChunks(causal("llama"), 8.0, 2)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((65, 8), "chunk_len: got 65; BertForMaskedLM has 64 usable positions"),
        ((8, 6), "overlap: got 6; expected 0 <= overlap < 6"),
        ((2, 0), "chunk_len: got 2"),
    ],
)
def test_bad_sizes_of_masked_chunks(sizes, message):
    with pytest.raises(ValueError, match=message):
        MaskedChunks(masked("bert"), *sizes)


def test_models_without_a_head():
    model = causal("llama").model
    with pytest.raises(TypeError, match="model: got LlamaModel, which has no language model head"):
        CausalChunks(model, 8, 2)
    with pytest.raises(TypeError, match="model: got Linear, which has no language model head"):
        MaskedChunks(torch.nn.Linear(2, 2), 8, 2)


def test_models_of_the_other_direction():
    with pytest.raises(TypeError, match="BertForMaskedLM, whose states depend on later tokens"):
        CausalChunks(masked("bert"), 8, 2)
    with pytest.raises(TypeError, match="LlamaForCausalLM, whose states do not depend on later tokens"):
        MaskedChunks(causal("llama"), 8, 2)
    config = transformers.T5Config(vocab_size=48, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    with pytest.raises(TypeError, match="whose forward does not run on token ids alone"):
        CausalChunks(transformers.T5ForConditionalGeneration(config), 8, 2)


class OtherHead(transformers.LlamaForCausalLM):
    """Logits with a term per token of the vocabulary."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + torch.arange(output.logits.shape[-1])
        return output


class MaskedIds(transformers.LlamaForCausalLM):
    """Logits of which some are never chosen."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits[..., 3] = -1e4
        return output


@pytest.mark.parametrize("model_class", [OtherHead, MaskedIds])
def test_unknown_heads(model_class):
    model = model_class(transformers.LlamaConfig(**CAUSAL["llama"][1]))
    with pytest.raises(TypeError, match=f"model: got {model_class.__name__}, whose "):
        CausalChunks(model, 8, 2)
