"""Rows of two segments: the first one, found by token types or separators, is a prefix of every chunk."""

import pytest
import torch
from helpers.encoder_models import CLS, PAD, SEP, VOCAB, pad, token_ids
from helpers.head_models import CONFIGS, DOUBLE, TYPED, encoder_of, head_logits, head_model
from helpers.merged_by_hand import merged_by_hand
from helpers.row_models import make_rows_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XLNetConfig

import lckernels
from lckernels.long.pairs import PairRule, first_segments, pair_rule

CHUNK = 32
TOLERANCE = {"rtol": 1e-11, "atol": 1e-12}
# Questions and contexts of each length; the third row is short, the last has one segment.
QUESTIONS, CONTEXTS = (5, 11, 3, 1, None), (80, 40, 9, 60, 70)


def words(length, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (length,), generator=generator)
    return " ".join(f"w{i}" for i in ids.tolist())


TEXTS = [
    (None if q is None else words(q, 10 + n), words(c, 20 + n))
    for n, (q, c) in enumerate(zip(QUESTIONS, CONTEXTS, strict=True))
]


def tokenizer(double):
    """A fast tokenizer of words, with one or two separators between segments."""
    special = {CLS: "<s>", SEP: "</s>", PAD: "<pad>"}
    vocab = {special.get(i, f"w{i}"): i for i in range(VOCAB)}
    of_words = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    of_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    between = "</s> </s> $B:1 </s>:1" if double else "</s> $B:1 </s>:1"
    of_words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=f"<s> $A {between}", special_tokens=[("<s>", CLS), ("</s>", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=of_words, cls_token="<s>", sep_token="</s>", pad_token="<pad>",
        model_max_length=CHUNK,
        model_input_names=["input_ids", "attention_mask"] + ["token_type_ids"] * (not double),
    )  # fmt: skip


def tokenized(family, read):
    """A batch of the texts, and the length of each row's first segment with its special tokens."""
    rows = [read(context) if q is None else read(q, context) for q, context in TEXTS]
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (family in TYPED)
    batch = read.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt")
    separators = 2 if family in DOUBLE else 1
    return dict(batch), [1 if q is None else 1 + q + separators for q in QUESTIONS]


def expected_states(model, batch, leads, summary="mean"):
    encoder, found = encoder_of(model), []
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):

        def read(columns, row=row):
            names = ("input_ids", "token_type_ids")
            inputs = {name: batch[name][row : row + 1, columns] for name in names if name in batch}
            return [encoder(**inputs).last_hidden_state[0]]

        (states,), _ = merged_by_hand(read, length, lead=leads[row], chunk_len=CHUNK, summary=summary)
        found.append(torch.nn.functional.pad(states, (0, 0, 0, batch["input_ids"].shape[1] - length)))
    return torch.stack(found)


@pytest.mark.parametrize("with_tokenizer", [True, False])
@pytest.mark.parametrize("summary", ["mean", "first"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_question_is_read_by_every_chunk(family, summary, with_tokenizer):
    """Ragged in a batch, with a short row and a row of one segment."""
    model, read = head_model(family, "QuestionAnswering"), tokenizer(family in DOUBLE)
    batch, leads = tokenized(family, read)
    assert batch["attention_mask"].sum(1).tolist()[0] == leads[0] + 80 + 1
    with torch.no_grad():
        states = expected_states(model, batch, leads, summary)
        expected = head_logits(model, "QuestionAnswering", states, batch["attention_mask"])
        report = lckernels.lengthen(model, read if with_tokenizer else None, chunk_len=CHUNK, summary=summary)
        output = model(**batch)
        logits = torch.stack([output.start_logits, output.end_logits], -1)
        torch.testing.assert_close(logits, expected, **TOLERANCE)
        lckernels.unlengthen(model)
        lckernels.lengthen(model, chunk_len=CHUNK, summary=summary, prefix=None)
        others = (model(**batch).start_logits - logits[..., 0]).abs().amax(1)
    assert others[[0, 1, 3]].min() > 1e-3  # the chunks after the first have no question then
    assert others[[2, 4]].max() < 1e-12
    assert ("token types" in report.prefix) == (family in TYPED)
    assert ("separators" in report.prefix) == (
        with_tokenizer or family not in ("bert", "electra", "deberta_v2")
    )


@pytest.mark.parametrize("family", TYPED)
def test_separators_where_types_are_not_given(family):
    """A model with token types, called without them: the tokenizer's separators are read."""
    model, read = head_model(family, "SequenceClassification"), tokenizer(False)
    batch, leads = tokenized(family, read)
    del batch["token_type_ids"]
    with torch.no_grad():
        states = expected_states(model, batch, leads)
        expected = head_logits(model, "SequenceClassification", states, batch["attention_mask"])
        lckernels.lengthen(model, read, chunk_len=CHUNK)
        torch.testing.assert_close(model(**batch).logits, expected, **TOLERANCE)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_each_choice_is_a_pair(family):
    model, read = head_model(family, "MultipleChoice"), tokenizer(family in DOUBLE)
    batch, leads = tokenized(family, read)
    with torch.no_grad():
        states = expected_states(model, batch, leads)
        expected = head_logits(model, "MultipleChoice", states, batch["attention_mask"])
        lckernels.lengthen(model, read, chunk_len=CHUNK)
        logits = model(**{name: x[None] for name, x in batch.items()}).logits
    torch.testing.assert_close(logits, expected, **TOLERANCE)


@pytest.mark.parametrize("family", ["distilbert", "roberta"])
def test_other_runs_of_separators_are_no_end_of_a_segment(family):
    """With a tokenizer the run must be its own: a separator within a text of one segment is content."""
    model, read = head_model(family, "TokenClassification"), tokenizer(family in DOUBLE)
    ids = read(words(70, 1), return_tensors="pt")["input_ids"]
    other = 1 if family in DOUBLE else 2
    ids[0, 10 : 10 + other] = SEP
    with torch.no_grad():
        states = expected_states(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [1])
        expected = head_logits(model, "TokenClassification", states, torch.ones_like(ids))
        with lckernels.lengthened(model, read, chunk_len=CHUNK):
            torch.testing.assert_close(model(ids).logits, expected, **TOLERANCE)
        with lckernels.lengthened(model, chunk_len=CHUNK):
            assert (model(ids).logits - expected).abs().max() > 1e-3


def test_a_fixed_prefix():
    """An instruction in every chunk: rows that begin with it keep its states, others do not contain it."""
    model, read = head_model("bert", "TokenClassification"), tokenizer(False)
    instruction, text = words(6, 1), words(70, 2)
    ids = read(instruction, add_special_tokens=False)["input_ids"]
    whole = read(f"{instruction} {text}", return_tensors="pt")["input_ids"]
    without = read(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = expected_states(model, {"input_ids": whole, "attention_mask": torch.ones_like(whole)}, [7])
        expected = head_logits(model, "TokenClassification", states, torch.ones_like(whole))
        for prefix in (instruction, ids, torch.tensor(ids)):
            with lckernels.lengthened(model, read, chunk_len=CHUNK, prefix=prefix) as report:
                torch.testing.assert_close(model(whole).logits, expected, **TOLERANCE)
                logits = model(without).logits
            quoted = f" ({prefix!r})" if prefix is instruction else ""
            assert report.prefix == f"6 given tokens{quoted}"
            torch.testing.assert_close(logits[:, 1:], expected[:, 7:], **TOLERANCE)


def test_padding_of_a_model_without_a_mask_is_no_segment():
    """FNet reads padding; a row of one segment without token types is none of two."""
    model = make_rows_model("fnet")
    ids, _ = pad([token_ids(200), token_ids(90), token_ids(200, 1)[:150]], "right")
    ids[2, 20] = SEP  # a pair
    with torch.no_grad():
        with lckernels.lengthened(model, prefix=None, special_tokens=(1, 1)):
            expected = model(ids[:2]).last_hidden_state
        lckernels.lengthen(model, tokenizer(False))
        assert torch.equal(model(ids[:2]).last_hidden_state, expected)
    rule = pair_rule(model, tokenizer(False))
    lengths = torch.full((3,), 200)
    assert first_segments(rule, ids, None, lengths, (1, 1)).tolist() == [1, 1, 21]
    unknown = PairRule(rule.by_types, rule.separator, rule.run)
    assert first_segments(unknown, ids, None, lengths, (1, 1)).tolist() == [1, 90, 21]


def test_types_of_special_tokens_are_no_segment():
    """XLNet's rows end with [SEP] and [CLS], which has a type of its own."""
    rule = PairRule(by_types=False, separator=None)
    types = torch.tensor([[0] * 8 + [2], [0, 0, 0, 1, 1, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1, 2, 0, 0]])
    lengths = torch.tensor([9, 9, 7])
    ids = torch.full_like(types, 9)
    assert first_segments(rule, ids, types, lengths, (0, 2)).tolist() == [0, 3, 1]
    assert first_segments(rule, ids, torch.ones_like(types), lengths, (1, 1)).tolist() == [1, 1, 1]


def test_token_types_of_another_shape():
    """TAPAS has seven types a token."""
    model = head_model("bert", "TokenClassification")
    lckernels.lengthen(model, chunk_len=CHUNK)
    message = r"token_type_ids: got shape \(1, 70, 7\); input_ids has \(batch, seqlen\) = \(1, 70\)"
    with pytest.raises(ValueError, match=message):
        encoder_of(model)(torch.full((1, 70), 9), token_type_ids=torch.zeros(1, 70, 7, dtype=torch.long))


def test_a_special_token_behind_the_last_separator():
    """As XLNet has it: rows without token types are pairs too."""
    read, special = tokenizer(False), [("<s>", CLS), ("</s>", SEP)]
    read.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> <s>", pair="$A </s> $B:1 </s>:1 <s>:2", special_tokens=special
    )
    model = torch.nn.Module()
    model.config = XLNetConfig()
    rule = pair_rule(model, read)
    assert rule == PairRule(by_types=False, separator=SEP, run=1, padding=PAD)
    ids = torch.tensor([read(words(9, 0), words(40, 1))["input_ids"]])
    assert first_segments(rule, ids, None, torch.tensor([ids.shape[1]]), (0, 2)).tolist() == [10]
