"""lengthen with PEFT: LoRA, prompt tuning and p-tuning, applied before and after; prefix tuning."""

# ruff: noqa: E402
import copy

import pytest
import torch

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from helpers.encoder_models import CLS, FAMILIES, SEP, SIZES, WIDE, pad, tiny, token_ids
from helpers.seq2seq import CHUNK, LABELS, SPECIAL, batch, build, encoder_outputs, loop_states
from helpers.seq2seq import row as seq2seq_row

import lckernels

VIRTUAL = 4
IDS, MASK = pad([token_ids(100), token_ids(50)], "right")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LORA = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"], "init_lora_weights": False}
SIZE = {"token_dim": 16, "num_layers": 2, "num_attention_heads": 2, "num_transformer_submodules": 1}
PROMPTS = {
    "prompt tuning": lambda task: peft.PromptTuningConfig(task_type=task, num_virtual_tokens=VIRTUAL, **SIZE),
    "p-tuning": lambda task: peft.PromptEncoderConfig(
        task_type=task, num_virtual_tokens=VIRTUAL, encoder_hidden_size=8, **SIZE
    ),
}


def classifier(family="bert"):
    torch.manual_seed(0)
    config_class, sizes = FAMILIES[family]
    config = config_class(**SIZES, **sizes, initializer_range=0.2, num_labels=3)
    if family == "roberta":
        config.bos_token_id, config.eos_token_id = CLS, SEP
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def tuned(model, config, seed=5):
    torch.manual_seed(seed)
    return peft.get_peft_model(model, config).eval()


def logits(model, ids=IDS, mask=MASK, **more):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **more).logits


def both_orders(make, config, **options):
    """The same model, lengthened after PEFT and before."""
    after = tuned(make(), config)
    report = lckernels.lengthen(after, **options)
    before = make()
    lckernels.lengthen(before, **options)
    return after, tuned(before, config), report


def test_lora():
    after, before, report = both_orders(classifier, peft.LoraConfig(**LORA))
    assert report.encoder == "base_model.model.bert (BertModel)"
    expected = logits(after)
    assert torch.equal(logits(before), expected)
    # Its own definition: the adapted encoder's merged states, and the head.
    plain = tuned(classifier(), peft.LoraConfig(**LORA)).get_base_model()
    with torch.no_grad():
        states = lckernels.LongEncoder(plain.bert, summary="mean")(IDS, MASK).last_hidden_state
        by_hand = plain.classifier(plain.bert.pooler(states))
    torch.testing.assert_close(expected, by_hand, **CLOSE)


@pytest.mark.parametrize("first", ["lora", "lengthen"])
def test_adapters_on_off_added_merged_and_unloaded(first):
    after, before, _ = both_orders(classifier, peft.LoraConfig(**LORA))
    model = after if first == "lora" else before
    adapted = logits(model)
    without = classifier()
    lckernels.lengthen(without)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(without), **CLOSE)
    assert (logits(without) - adapted).abs().max() > 1e-2
    torch.manual_seed(7)
    model.add_adapter("second", peft.LoraConfig(**LORA))
    model.set_adapter("second")
    assert (logits(model) - adapted).abs().max() > 1e-2
    model.set_adapter("default")
    assert torch.equal(logits(model), adapted)
    assert torch.equal(logits(copy.deepcopy(model)), adapted)
    merged = model.merge_and_unload()
    assert type(merged) is transformers.BertForSequenceClassification
    torch.testing.assert_close(logits(merged), adapted, **CLOSE)
    lckernels.unlengthen(merged)
    with pytest.raises((RuntimeError, IndexError)):
        logits(merged)


def test_lora_trains_its_adapters_alone():
    config = peft.LoraConfig(**LORA)
    model, _, _ = both_orders(classifier, config)
    model.train()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-2)
    losses = []
    for _ in range(10):
        loss = model(input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 2])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert any(
        "bert" in name and p.grad.abs().sum() > 0 for name, p in model.named_parameters() if p.requires_grad
    )
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def prompted(model, row, overlap, types=None, lead=1):
    """Logits of one row: `VIRTUAL` tokens and the first `lead` are in each chunk, and a mean over them."""
    base, room = model.get_base_model(), 32 - VIRTUAL - lead - 1
    content = row[lead:-1]
    starts = [0]
    while starts[-1] + room < len(content):
        starts.append(min(starts[-1] + room - overlap, len(content) - room))
    with torch.no_grad():
        prompt, embed = model.get_prompt(1)[0], model.word_embeddings
        states, kept = [], []
        for n, start in enumerate(starts):
            end = min(start + room, len(content))
            chunk = torch.cat([prompt, embed(torch.cat([row[:lead], content[start:end], row[-1:]]))])
            part = {}
            if types is not None:
                parts = [types.new_zeros(VIRTUAL), types[:lead], types[lead:-1][start:end], types[-1:]]
                part["token_type_ids"] = torch.cat(parts)[None]
            encoder = getattr(base, base.base_model_prefix)
            states.append(encoder(inputs_embeds=chunk[None], **part).last_hidden_state[0, :1])
            previous = 0 if n == 0 else starts[n - 1] + room
            begin = start if n == 0 else previous - (overlap - overlap // 2)
            begin = begin if n == 0 else max(begin, start + overlap // 2)
            last = len(content) if n == len(starts) - 1 else end - (overlap - overlap // 2)
            kept.append(last - begin)
        assert sum(kept) == len(content)
        weights = torch.tensor(kept, dtype=torch.float32)[:, None]
        first = (torch.cat(states) * weights).sum(0, keepdim=True) / weights.sum()
        if base.base_model_prefix == "bert":
            return base.classifier(base.bert.pooler(first[None]))
        return base.classifier(first[None])


@pytest.mark.parametrize("first", ["peft", "lengthen"])
@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_virtual_tokens_are_in_every_chunk(family, kind, first):
    config = PROMPTS[kind]("SEQ_CLS")
    after, before, report = both_orders(lambda: classifier(family), config, overlap=6)
    assert report.prefix.startswith("4 virtual tokens; the first of two segments")
    model = after if first == "peft" else before
    for p in model.prompt_encoder.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
    ours = logits(model)
    for i, row in enumerate((token_ids(100), token_ids(50))):
        torch.testing.assert_close(ours[i : i + 1], prompted(model, row, 6), **CLOSE)
    short = token_ids(20)[None]
    lengthened = logits(model, short, None)
    lckernels.unlengthen(model)
    assert torch.equal(logits(model, short, None), lengthened)


@pytest.mark.parametrize("first", ["peft", "lengthen"])
def test_a_question_behind_virtual_tokens(first):
    config = PROMPTS["prompt tuning"]("SEQ_CLS")
    after, before, _ = both_orders(classifier, config, overlap=6)
    model = after if first == "peft" else before
    row = torch.cat([token_ids(8), token_ids(80)[1:]])
    types = (torch.arange(len(row)) >= 8).long()
    ours = logits(model, row[None], None, token_type_ids=types[None])
    torch.testing.assert_close(ours, prompted(model, row, 6, types, lead=8), **CLOSE)


def test_separators_of_a_pair_are_found_behind_virtual_tokens():
    config = PROMPTS["prompt tuning"]("SEQ_CLS")
    model, _, _ = both_orders(lambda: classifier("roberta"), config, overlap=6)
    row = torch.cat([token_ids(8), torch.tensor([SEP]), token_ids(80)[1:]])
    torch.testing.assert_close(logits(model, row[None], None), prompted(model, row, 6, lead=9), **CLOSE)


def test_prompt_tuning_off():
    model, _, _ = both_orders(classifier, PROMPTS["prompt tuning"]("SEQ_CLS"))
    plain = classifier()
    plain.classifier = model.get_base_model().classifier
    lckernels.lengthen(plain)
    expected = logits(plain)
    # disable_adapter of PEFT 0.21.2 raises an UnboundLocalError for encoders.
    assert torch.equal(logits(model.get_base_model()), expected)
    assert (logits(model) - expected).abs().max() > 1e-2


def test_virtual_tokens_learn():
    model, _, _ = both_orders(classifier, PROMPTS["prompt tuning"]("SEQ_CLS"))
    model(input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 2])).loss.backward()
    assert model.prompt_encoder.default.embedding.weight.grad.abs().sum(1).min() > 0


def test_more_virtual_tokens_than_a_chunk_holds():
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=31, **SIZE)
    model, _, _ = both_orders(classifier, config)
    with pytest.raises(
        ValueError, match="prefix: got virtual tokens and a first segment of 32 tokens in row 0"
    ):
        logits(model)


def test_prefix_tuning_is_no_method_for_lengthen():
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=VIRTUAL)
    with pytest.raises(ValueError, match=r"with prefix tuning, .*; LongEncoder\(model\) supports this one"):
        lckernels.lengthen(tuned(tiny(), config))
    model = tiny()
    lckernels.lengthen(model)
    model, short = tuned(model, config), token_ids(20)[None]
    with torch.no_grad():
        expected = tuned(tiny(), config)(input_ids=short).last_hidden_state
        assert torch.equal(model(input_ids=short).last_hidden_state, expected)
        message = "past_key_values: got 4 keys before the rows; PEFT's prefix tuning is supported"
        with pytest.raises(ValueError, match=message):
            model(input_ids=IDS, attention_mask=MASK)


NO_KEYS = {
    "distilbert": lambda: tiny("distilbert"),
    "mpnet": lambda: tiny("mpnet"),
    "albert": lambda: transformers.AlbertModel(
        transformers.AlbertConfig(**SIZES, **WIDE, embedding_size=8, max_position_embeddings=32)
    ),
    "modernbert": lambda: transformers.ModernBertModel(
        transformers.ModernBertConfig(**SIZES, **WIDE, max_position_embeddings=32)
    ),
}


@pytest.mark.parametrize("family", NO_KEYS)
def test_an_encoder_that_does_not_read_the_keys_of_prefix_tuning(family):
    """An error before any training, in each way and order."""
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=VIRTUAL, **SIZE)
    model = tuned(NO_KEYS[family](), config)
    message = "with prefix tuning, whose 4 virtual tokens it does not read: its states are the same"
    with pytest.raises(TypeError, match=message):
        lckernels.LongEncoder(model, 20, 6)
    with pytest.raises(TypeError, match=message):
        lckernels.lengthen(model)
    before = NO_KEYS[family]()
    lckernels.lengthen(before, prefix=None)
    for ids in (token_ids(20)[None], IDS):
        with pytest.raises(TypeError, match=f"past_key_values: got .*{message}"):
            tuned(before, config)(input_ids=ids)


@pytest.mark.parametrize("first", ["peft", "lengthen"])
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_prefix_tuning_of_a_decoder(name, first):
    """Its keys are the decoder's: the states of the document are those of the encoder without PEFT."""
    model = build(name)
    sizes = {"special_tokens": SPECIAL[name], **({"chunk_len": CHUNK} if name == "t5" else {})}
    if first == "lengthen":
        lckernels.lengthen(model, **sizes)
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=VIRTUAL)
    model = tuned(model, config)
    torch.nn.init.normal_(model.prompt_encoder.default.embedding.weight)
    if first == "peft":
        assert "virtual" not in lckernels.lengthen(model, **sizes).prefix
    documents = [seq2seq_row(70, SPECIAL[name]), seq2seq_row(30, SPECIAL[name], 1)]
    inputs = {**batch(documents), "labels": LABELS[:2]}
    ours = model(**inputs)
    ours.loss.backward()
    weight = model.prompt_encoder.default.embedding.weight
    gradient, weight.grad = weight.grad, None
    assert gradient.abs().sum(1).min() > 0
    lckernels.unlengthen(model)
    with torch.no_grad():
        states = [loop_states(model.get_base_model().get_encoder(), x, SPECIAL[name]) for x in documents]
    expected = model(**{**inputs, **encoder_outputs(states)})
    expected.loss.backward()
    torch.testing.assert_close(ours.logits, expected.logits, **CLOSE)
    torch.testing.assert_close(gradient, weight.grad, **CLOSE)
