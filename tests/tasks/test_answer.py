"""`answer`: of one chunk the head's own best spans, of a longer text those of the merged scores."""

# ruff: noqa: RUF001

import math

import pytest
import torch
from helpers.head_models import TYPED, head_model
from helpers.null_scores import null_scores
from helpers.span_loops import all_spans, best_by_loops
from helpers.tiny_decoder import byte_tokenizer
from helpers.word_tokenizer import word_tokenizer, words

import lckernels
from lckernels.tasks import answer

transformers = pytest.importorskip("transformers")

QUESTION = "w7 w9"


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture(scope="module")
def model():
    return head_model("bert", "QuestionAnswering")


def of_transformers(model, tokenizer, question, text, max_tokens, top_k, typed=True, null=None):
    """(start, end, score) of the best spans and of no answer, by loops over the model's logits.

    The score of no answer is that of the first token, or the one given.
    """
    row = tokenizer(question, text, return_offsets_mapping=True, return_token_type_ids=typed, verbose=False)
    columns = [i for i, part in enumerate(row.sequence_ids(0)) if part == 1]
    offsets = row.pop("offset_mapping")
    with torch.no_grad():
        output = model(**{name: torch.tensor([x]) for name, x in row.items()})
    logits = output.start_logits[0].tolist(), output.end_logits[0].tolist()
    starts, ends = ([of[i] for i in columns] for of in logits)
    null = logits[0][0] + logits[1][0] if null is None else null
    total = math.fsum(math.exp(score) for _, _, score in map(vars_of, all_spans(starts, ends, max_tokens)))
    total += math.exp(null)
    found = [
        (offsets[columns[first]][0], offsets[columns[last]][1], math.exp(score) / total)
        for first, last, score in map(vars_of, best_by_loops(starts, ends, max_tokens, top_k))
    ]
    return found, math.exp(null) / total


def vars_of(span):
    return span.first, span.last, span.score


def check(found, expected, text):
    spans, null = expected
    assert [(x.start, x.end) for x in found.answers] == [(start, end) for start, end, _ in spans]
    assert [x.score for x in found.answers] == pytest.approx([score for *_, score in spans], rel=1e-9)
    assert found.no_answer == pytest.approx(null, rel=1e-9)
    assert all(x.text == text[x.start : x.end] for x in found.answers)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "deberta_v2", "electra"])
def test_a_text_of_one_chunk_has_the_heads_own_answers(family, tokenizer):
    model, text = head_model(family, "QuestionAnswering"), words(25)
    for max_tokens, top_k in ((1, 3), (4, 5), (30, 1), (30, 40)):
        found = answer(model, tokenizer, QUESTION, text, top_k, max_answer_tokens=max_tokens)
        expected = of_transformers(model, tokenizer, QUESTION, text, max_tokens, top_k, family in TYPED)
        check(found, expected, text)
    assert found.coverage == 1 and found.num_tokens == 25


def test_a_longer_text_has_the_best_spans_of_its_merged_scores(model, tokenizer):
    text = words(200)
    null = min(null_scores(model, tokenizer, QUESTION, text, chunk_len=30, overlap=6))
    with lckernels.lengthened(model, tokenizer, chunk_len=30, overlap=6):
        expected = of_transformers(model, tokenizer, QUESTION, text, 12, 8, null=null)
        check(answer(model, tokenizer, QUESTION, text, 8, max_answer_tokens=12), expected, text)
    found = answer(model, tokenizer, QUESTION, text, 8, max_answer_tokens=12, chunk_len=30, overlap=6)
    check(found, expected, text)
    assert found.coverage == 1 and found.num_tokens == 200


def test_probabilities_without_no_answer(model, tokenizer):
    """Spans of one token that do not overlap are all spans, so their scores have the sum 1."""
    found = answer(model, tokenizer, QUESTION, words(90), 90, no_answer=False, max_answer_tokens=1)
    assert found.no_answer is None and len(found.answers) == 90
    assert math.fsum(x.score for x in found.answers) == pytest.approx(1, rel=1e-12)
    with_it = answer(model, tokenizer, QUESTION, words(90), 90, max_answer_tokens=1)
    total = math.fsum(x.score for x in with_it.answers) + with_it.no_answer
    assert total == pytest.approx(1, rel=1e-12)
    assert [(x.start, x.end) for x in with_it.answers] == [(x.start, x.end) for x in found.answers]


def test_several_questions_and_texts(model, tokenizer):
    texts, questions = [words(10), words(150), words(60, 1)], ["w5", "w6 w7 w8", "w9"]

    def same(found, pairs):
        assert len(found) == len(pairs)
        for one, (question, text) in zip(found, pairs, strict=True):
            alone = answer(model, tokenizer, question, text)
            assert [(x.start, x.end) for x in one.answers] == [(x.start, x.end) for x in alone.answers]
            assert one.no_answer == pytest.approx(alone.no_answer, rel=1e-9)
            assert one.num_tokens == alone.num_tokens

    for batch in (1, 2, 8):
        same(answer(model, tokenizer, "w5", texts, batch=batch), [("w5", text) for text in texts])
    same(answer(model, tokenizer, questions, texts[1]), [(question, texts[1]) for question in questions])
    same(answer(model, tokenizer, questions, texts), list(zip(questions, texts, strict=True)))
    assert answer(model, tokenizer, "w5", []) == []


def test_a_limit_and_the_coverage(model, tokenizer):
    text = words(120)
    found = answer(model, tokenizer, QUESTION, text, limit=40)
    first = " ".join(text.split()[:40])
    assert found.num_tokens == 40
    assert found.coverage == pytest.approx(len(first.replace(" ", "")) / len(text.replace(" ", "")))
    alone = answer(model, tokenizer, QUESTION, first)
    assert [(x.start, x.end, x.score) for x in found.answers] == [
        (x.start, x.end, x.score) for x in alone.answers
    ]


def test_the_curve_has_the_score_of_the_best_answer_at_its_place(model, tokenizer):
    found = answer(model, tokenizer, QUESTION, words(70))
    best = found.answers[0]
    assert len(found.curve.values) == 70
    assert max(found.curve.values) == pytest.approx(best.score, rel=1e-6)
    assert found.curve.positions[found.curve.values.index(max(found.curve.values))] == best.start


def test_no_answer_is_a_result_of_its_own(model, tokenizer):
    text = words(70)
    found = answer(model, tokenizer, QUESTION, text)
    assert found.best == (found.answers[0] if found.answers[0].score >= found.no_answer else None)
    without = answer(model, tokenizer, QUESTION, text, no_answer=False)
    assert without.best == without.answers[0]
    assert all(x.end > x.start for x in found.answers)


CHINESE = "蘋果公司在加州。𠮷野家は牛丼の店です。😀 Python是編程語言，1991年發布。"


def test_wide_characters():
    """Tokens of one Chinese character each; offsets count characters, of which 𠮷 and 😀 are one each."""
    vocabulary = ["[PAD]", "[UNK]", "x", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary += sorted({*CHINESE, *"python1991", "python", "1991"} - {*vocabulary})
    tokenizer = transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)})
    model, text = head_model("bert", "QuestionAnswering", vocab_size=len(vocabulary)), CHINESE * 4
    found = answer(model, tokenizer, "店在哪裡？", text, 20, max_answer_tokens=5)
    assert len(found.answers) == 20 and found.coverage == 1
    assert found.num_tokens > 90  # several chunks
    null = min(null_scores(model, tokenizer, "店在哪裡？", text))
    with lckernels.lengthened(model, tokenizer):
        expected = of_transformers(model, tokenizer, "店在哪裡？", text, 5, 20, null=null)
    check(found, expected, text)
    single = answer(model, tokenizer, "店在哪裡？", text, 500, max_answer_tokens=1).answers
    found = sorted((x.start, x.text) for x in single if x.text in ("𠮷", "😀", "python", "Python"))
    expected = [
        (i, word) for i in range(len(text)) for word in ("𠮷", "😀", "Python") if text[i:].startswith(word)
    ]
    assert found == expected and len(found) == 12


def model_of_bytes():
    """A RoBERTa and a tokenizer whose tokens are bytes."""
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    model = head_model("roberta", "QuestionAnswering", vocab_size=260, pad_token_id=3)
    model.config.bos_token_id, model.config.eos_token_id = 0, 1
    return model, tokenizer


def test_tokens_that_are_bytes_of_characters():
    """Answers have whole characters, and no two of them share one."""
    found = answer(*model_of_bytes(), "?", CHINESE, 100, max_answer_tokens=4, overlap=5)
    places = [place for x in found.answers for place in range(x.start, x.end)]
    assert len(places) == len({*places}) and len(found.answers) > 10
    assert all(x.text == CHINESE[x.start : x.end] != "" for x in found.answers)


def test_white_space_is_no_answer():
    """Bytes of white space are tokens here; an answer neither is one nor begins or ends with one."""
    text = "a b  \n c\td   e f"
    found = answer(*model_of_bytes(), "q", text, 30, max_answer_tokens=3)
    assert found.answers and all(x.text == x.text.strip() != "" for x in found.answers)
    assert found.coverage == 1


@pytest.mark.parametrize("method", ["lora", "prompt tuning"])
def test_a_model_in_peft(method, tokenizer):
    """The answers are those of its own logits; the columns of virtual tokens are none of the text."""
    peft = pytest.importorskip("peft")
    model, text = head_model("roberta", "QuestionAnswering"), words(15)
    config = peft.PromptTuningConfig(task_type="QUESTION_ANS", num_virtual_tokens=4)
    if method == "lora":
        config = peft.LoraConfig(task_type="QUESTION_ANS", target_modules=["query"], init_lora_weights=False)
    torch.manual_seed(0)
    tuned = peft.get_peft_model(model, config).double().eval()
    inputs = tokenizer(QUESTION, text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        output = tuned(**inputs)
    virtual = output.start_logits.shape[1] - inputs["input_ids"].shape[1]
    assert virtual == (0 if method == "lora" else 4)
    columns = slice(virtual + 4, -1)  # behind [CLS], two words and [SEP]
    starts, ends = output.start_logits[0, columns].tolist(), output.end_logits[0, columns].tolist()
    best = best_by_loops(starts, ends, 30, 5)
    found = answer(tuned, tokenizer, QUESTION, text)
    assert [len(text[: x.start].split()) for x in found.answers] == [span.first for span in best]
    null = float(output.start_logits[0, virtual] + output.end_logits[0, virtual])
    ratio = found.no_answer / found.answers[0].score
    assert math.log(ratio) == pytest.approx(null - best[0].score, abs=1e-9)
    assert answer(tuned, tokenizer, QUESTION, words(90)).num_tokens == 90
