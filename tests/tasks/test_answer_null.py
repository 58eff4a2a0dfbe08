"""The score of "no answer" of a long text: the smallest of its chunks', each read alone by the model."""

import functools
import math

import pytest
import torch
from helpers.encoder_models import PAD, SEP, VOCAB
from helpers.head_models import TYPED, head_model
from helpers.null_scores import first_score, null_scores
from helpers.word_tokenizer import word_tokenizer, words

import lckernels
from lckernels.tasks import answer

transformers = pytest.importorskip("transformers")

QUESTION = "w7 w9"
LENGTHS = (120, 9, 60)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def null_of(found, model, tokenizer, text, *, question=QUESTION, virtual=0, typed=True, **options):
    """The score of no answer, and that of the merged state.

    From its probability and that of the best span, whose score is that of the merged logits.
    """
    row = tokenizer(question, text, return_tensors="pt", return_token_type_ids=typed, verbose=False)
    with lckernels.lengthened(model, tokenizer, **options), torch.no_grad():
        merged = model(**row)
    best = found.answers[0]
    first = virtual + 4 + len(text[: best.start].split())  # behind [CLS], two words and [SEP]
    last = first + len(best.text.split()) - 1
    top = float(merged.start_logits[0, first] + merged.end_logits[0, last])
    return math.log(found.no_answer / best.score) + top, float(first_score(merged, virtual)[0])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "deberta_v2", "electra"])
def test_it_is_the_smallest_of_the_chunks(family, tokenizer):
    """In a batch with a text of one chunk, whose score is that of its row."""
    model, typed = head_model(family, "QuestionAnswering"), family in TYPED
    texts = [words(length) for length in LENGTHS]
    for text, found in zip(texts, answer(model, tokenizer, QUESTION, texts), strict=True):
        scores = null_scores(model, tokenizer, QUESTION, text, typed=typed)
        null, merged = null_of(found, model, tokenizer, text, typed=typed)
        assert null == pytest.approx(min(scores), abs=1e-9)
        if len(scores) == 1:
            assert null == pytest.approx(merged, abs=1e-9)
        else:
            assert min(scores) < merged - 1e-3  # the score of the mean


def test_a_short_text_among_long_ones(tokenizer):
    """Its row is in a call in which other rows have several chunks."""
    model = head_model("bert", "QuestionAnswering")
    texts = [words(80), words(9)]
    in_one_call = answer(model, tokenizer, QUESTION, texts, batch=2)
    alone = answer(model, tokenizer, QUESTION, texts, batch=1)
    assert [x.no_answer for x in in_one_call] == pytest.approx([x.no_answer for x in alone], rel=1e-9)


def test_a_limit(tokenizer):
    """Chunks behind it do not count."""
    model, text = head_model("bert", "QuestionAnswering"), words(120)
    cut = " ".join(text.split()[:60])
    found = answer(model, tokenizer, QUESTION, text, limit=60)
    assert found.no_answer == answer(model, tokenizer, QUESTION, cut).no_answer
    null, _ = null_of(found, model, tokenizer, cut)
    assert null == pytest.approx(min(null_scores(model, tokenizer, QUESTION, cut)), abs=1e-9)


def test_prompt_tuning(tokenizer):
    """The first token is behind the virtual ones, which each chunk reads."""
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="QUESTION_ANS", num_virtual_tokens=4)
    torch.manual_seed(0)
    model = peft.get_peft_model(head_model("roberta", "QuestionAnswering"), config).double().eval()
    text = words(100)
    found = answer(model, tokenizer, QUESTION, text)
    scores = null_scores(model, tokenizer, QUESTION, text, typed=False, virtual=4)
    null, _ = null_of(found, model, tokenizer, text, virtual=4, typed=False)
    assert len(scores) > 4 and null == pytest.approx(min(scores), abs=1e-9)


@pytest.mark.parametrize("summary", ["mean", "first"])
def test_a_lengthened_model(summary, tokenizer):
    """With summary="first" it is the first chunk's."""
    model, text = head_model("bert", "QuestionAnswering"), words(120)
    with lckernels.lengthened(model, tokenizer, overlap=8, summary=summary):
        found = answer(model, tokenizer, QUESTION, text)
    scores = null_scores(model, tokenizer, QUESTION, text, overlap=8)
    null, _ = null_of(found, model, tokenizer, text, overlap=8, summary=summary)
    assert scores[0] > min(scores) + 1e-3
    assert null == pytest.approx(scores[0] if summary == "first" else min(scores), abs=1e-9)


def test_a_fixed_prefix(tokenizer):
    """Only the first of two chunks reads the question: the row fits a chunk, but not with the prefix."""
    model, text = head_model("bert", "QuestionAnswering"), words(27)
    with lckernels.lengthened(model, tokenizer, prefix="w5 w6"):
        found = answer(model, tokenizer, QUESTION, text)
    null, merged = null_of(found, model, tokenizer, text, prefix="w5 w6")
    assert null == pytest.approx(merged, abs=1e-9)
    assert abs(merged - null_scores(model, tokenizer, QUESTION, text)[0]) > 1e-3


class WithTheNextState(torch.nn.Module):
    """A head whose scores of a token read the state of the next one too."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, states):
        return self.linear(states + states.roll(-1, 1))


class OfTwoLayers(torch.nn.Module):
    """A head that reads each token's own state."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, states):
        return self.linear((3 * states - states.mean(-1, keepdim=True)).tanh())


@pytest.mark.parametrize("head", [WithTheNextState, OfTwoLayers])
def test_another_head(head, tokenizer):
    """One that reads other states too has the score of the merged states."""
    model, text = head_model("bert", "QuestionAnswering"), words(100)
    model.qa_outputs = head(model.qa_outputs)
    found = answer(model, tokenizer, QUESTION, text)
    scores = null_scores(model, tokenizer, QUESTION, text)
    null, merged = null_of(found, model, tokenizer, text)
    assert abs(min(scores) - merged) > 1e-3
    assert null == pytest.approx(merged if head is WithTheNextState else min(scores), abs=1e-9)


@pytest.mark.parametrize("question", [QUESTION, "w7 w8"])
def test_a_head_that_looks_for_a_token(question, tokenizer):
    """Splinter's head reads the state of w9, or of the first token in a row without it."""
    torch.manual_seed(0)
    config = transformers.SplinterConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, pad_token_id=PAD, question_token_id=9,
    )  # fmt: skip
    model = transformers.SplinterForQuestionAnswering(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    text = " ".join(word for word in words(100).split() if word != "w9")
    found = answer(model, tokenizer, question, text)
    null, merged = null_of(found, model, tokenizer, text, question=question)
    scores = null_scores(model, tokenizer, question, text)
    assert abs(min(scores) - merged) > 1e-3
    assert null == pytest.approx(merged if "w9" in question else min(scores), abs=1e-5)


def test_a_model_that_calls_its_encoder_twice(tokenizer):
    model, text = head_model("bert", "QuestionAnswering"), words(100)
    own = model.forward

    @functools.wraps(own)
    def forward(*args, **kwargs):
        own(*args, **kwargs)
        return own(*args, **kwargs)

    model.forward = forward
    found = answer(model, tokenizer, QUESTION, text)
    null, merged = null_of(found, model, tokenizer, text)
    assert null == pytest.approx(merged, abs=1e-9)
    assert merged > min(null_scores(model, tokenizer, QUESTION, text)) + 1e-3


def test_an_encoder_decoder(tokenizer):
    """Its decoder reads all merged states."""
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    ids = {"vocab_size": VOCAB, "pad_token_id": PAD, "eos_token_id": SEP, "decoder_start_token_id": PAD}
    torch.manual_seed(0)
    model, text = (
        transformers.T5ForQuestionAnswering(transformers.T5Config(**sizes, **ids)).eval(),
        words(100),
    )
    found = answer(model, tokenizer, QUESTION, text, chunk_len=32)
    null, merged = null_of(found, model, tokenizer, text, typed=False, chunk_len=32)
    assert null == pytest.approx(merged, abs=1e-4)


def test_no_chunk_is_read_twice(tokenizer):
    model, text = head_model("bert", "QuestionAnswering"), words(200)
    rows = []
    hook = model.bert.embeddings.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    counts = []
    for no_answer in (True, False):
        rows.clear()
        answer(model, tokenizer, QUESTION, text, no_answer=no_answer)
        counts.append(sum(rows))
    hook.remove()
    assert counts[0] - counts[1] == 1  # a short row, from which it is known how to run the head
