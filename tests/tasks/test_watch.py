"""watch: after each append the classes of `classify` for the whole text so far, and what the model reads."""

# ruff: noqa: E402, RUF001
import random

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.head_models import encoder_of, head_model
from helpers.tiny_bert import save_tiny_bert, tiny_text
from helpers.trained_models import CHUNK, config
from helpers.word_tokenizer import word_tokenizer, words

import lckernels
from lckernels.tasks import classify, watch

OVERLAP = 8
STEP = CHUNK - 2 - OVERLAP
CHINESE = "今天的天气很好，我们去公园散步。他说：“明天还会来！”球队进球了。" * 3


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A tokenizer of pieces of words and of single Chinese characters, and a model for it."""
    folder = save_tiny_bert(tmp_path_factory.mktemp("bert"))
    vocabulary = (folder / "vocab.txt").read_text().split()
    known = [character for character in dict.fromkeys(CHINESE) if character not in "！”"]
    tokenizer = transformers.BertTokenizerFast(vocab={x: i for i, x in enumerate([*vocabulary, *known])})
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "num_labels": 3, "max_position_embeddings": CHUNK}
    return transformers.BertForSequenceClassification(config(**sizes)).double().eval(), tokenizer


def same(found, expected, tolerance=1e-6):
    assert (found.kind, found.num_tokens) == (expected.kind, expected.num_tokens)
    assert found.coverage == pytest.approx(expected.coverage, abs=1e-12) and found.curve is None
    scores, others = ({label.label: label.score for label in one.labels} for one in (found, expected))
    assert scores == pytest.approx(others, abs=tolerance) and found.chosen == expected.chosen
    assert found.value == (None if expected.value is None else pytest.approx(expected.value, abs=tolerance))


def check_appends(model, tokenizer, text, sizes, check_every=1, **options):
    watched, at, number = watch(model, tokenizer, **options), 0, 0
    while at < len(text):
        size = sizes()
        found, at, number = watched.append(text[at : at + size]), at + size, number + 1
        if number % check_every == 0 or at >= len(text):
            same(found, classify(model, tokenizer, text[:at], **options))
            assert (watched.num_tokens, watched.coverage) == (found.num_tokens, found.coverage)
    return watched, found


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta_v2", "modernbert"])
def test_each_append_equals_classify(family):
    model, draw = head_model(family, "SequenceClassification"), random.Random(0)
    check_appends(model, word_tokenizer(), words(120), lambda: draw.randint(1, 150), overlap=OVERLAP)
    assert "forward" not in encoder_of(model).__dict__


@pytest.mark.parametrize("text", [tiny_text(6), CHINESE], ids=["english", "chinese"])
@pytest.mark.parametrize("longest", [1, 40])
def test_words_and_characters_that_come_in_pieces(pieces, text, longest):
    draw = random.Random(0)
    sizes = (lambda: 1) if longest == 1 else (lambda: draw.randint(1, longest))
    check_appends(*pieces, text, sizes, check_every=40 if longest == 1 else 2, overlap=OVERLAP)


class MaxPooled(transformers.BertPreTrainedModel):
    """Its head reads the largest value of each dimension over all states."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = transformers.BertModel(config, add_pooling_layer=False)
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask, token_type_ids=None, return_dict=True):
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = states.masked_fill(attention_mask[..., None] == 0, -torch.inf).amax(1)
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=self.classifier(pooled))


@pytest.mark.parametrize("reads", ["mean", "all"])
def test_heads_that_read_other_states(reads):
    model = head_model("modernbert", "SequenceClassification", classifier_pooling="mean")
    if reads == "all":
        torch.manual_seed(0)
        model = MaxPooled(config(vocab_size=60, num_labels=3)).double().eval()
    draw = random.Random(1)
    watched, _ = check_appends(
        model, word_tokenizer(), words(110), lambda: draw.randint(1, 150), overlap=OVERLAP
    )
    assert watched._head.reads == reads
    assert (sum(map(len, watched._states)) > 60) == (reads == "all")


@pytest.mark.parametrize("summary", ["mean", "first"])
def test_a_lengthened_model(summary):
    model, draw = head_model("bert", "SequenceClassification"), random.Random(2)
    with lckernels.lengthened(model, word_tokenizer(), overlap=OVERLAP, summary=summary):
        watched, _ = check_appends(model, word_tokenizer(), words(90), lambda: draw.randint(1, 200))
    with pytest.raises(
        ValueError, match=r"model: got BertFor.*, which was unlengthened since; call lckernels"
    ):
        watched.append("w7")


def test_in_peft_and_patched():
    peft = pytest.importorskip("peft")
    options = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], r=2)
    model = peft.get_peft_model(head_model("bert", "SequenceClassification"), options).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    draw = random.Random(3)
    with lckernels.patched(model):
        check_appends(model, word_tokenizer(), words(90), lambda: draw.randint(1, 200), overlap=OVERLAP)


@pytest.mark.parametrize("size", [1, 5, STEP, 3 * STEP])
def test_what_an_append_reads(size):
    """The last chunk, and one for each step that was completed: n tokens, their overlaps, and one chunk."""
    model, text, read = head_model("bert", "SequenceClassification"), words(250).split(), []
    watched = watch(model, word_tokenizer(), overlap=OVERLAP)
    embeddings = encoder_of(model).embeddings
    handle = embeddings.register_forward_hook(
        lambda module, args, output: read.append(output[..., 0].numel())
    )
    total, appends, states, held = 0, 0, 0, 0
    try:
        for at in range(0, len(text), size):
            watched.append(" ".join(text[at : at + size]) + " ")
            chunks = sum(read) / CHUNK
            assert chunks <= 1 + -(-(size + held) // STEP)
            held = len(watched._text.provisional)
            total, appends = total + chunks, appends + 1
            read.clear()
            states = max(states, sum(x.numel() for x in watched._stream._states.values()))
            assert len(watched._stream._content) < 2 * CHUNK and len(watched._text._end) < 1200
    finally:
        handle.remove()
    assert total <= appends + len(text) / STEP
    assert states <= 2 * CHUNK * model.config.hidden_size


def test_watches_of_one_model_are_independent():
    model, read = head_model("bert", "SequenceClassification"), word_tokenizer()
    first, second = watch(model, read, overlap=OVERLAP), watch(model, read, "multi", overlap=OVERLAP)
    for i in range(4):
        found, other = first.append(words(30, i) + " "), second.append(words(20, i) + " ")
    one, two = (" ".join(words(size, i) for i in range(4)) for size in (30, 20))
    same(found, classify(model, read, one, overlap=OVERLAP))
    same(other, classify(model, read, two, "multi", overlap=OVERLAP))
    assert first.append("") == found
    first.reset()
    assert (first.num_tokens, first.coverage) == (0, 1.0)
    same(first.append(two), classify(model, read, two, overlap=OVERLAP))


def test_a_text_without_a_token_so_far(pieces):
    watched = watch(*pieces, overlap=OVERLAP)
    for text in ("", " ", "\n"):
        with pytest.raises(ValueError, match="text: got no token so far; expected a text that begins with"):
            watched.append(text)
    same(watched.append("river"), classify(*pieces, "river", overlap=OVERLAP))
    with pytest.raises(TypeError, match="text: got list; expected a str"):
        watched.append(["river"])
    with pytest.raises(ValueError, match=r"text: got a lone surrogate, U\+D83D, at character 1"):
        watched.append(" \ud83d")
    same(watched.append(" river"), classify(*pieces, "river river", overlap=OVERLAP))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": "layer", "summary": "first"}, "merge: got 'layer'; a stream requires merge='final'"),
        ({"prefix": [7]}, "model: got BertForSequenceClassification lengthened with a prefix of its own"),
    ],
)
def test_lengthened_models_that_cannot_be_watched(options, message):
    model = head_model("bert", "SequenceClassification")
    with lckernels.lengthened(model, word_tokenizer(), **options), pytest.raises(ValueError, match=message):
        watch(model, word_tokenizer())


def test_bad_input():
    model = head_model("bert", "SequenceClassification")
    with pytest.raises(ValueError, match="kind: got 'binary'"):
        watch(model, word_tokenizer(), "binary")
    with pytest.raises(TypeError, match="without a head for sequence classification"):
        watch(head_model("bert", "TokenClassification"), word_tokenizer())
    peft = pytest.importorskip("peft")
    options = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    with pytest.raises(TypeError, match="with virtual tokens, which the encoder in it lacks"):
        watch(peft.get_peft_model(model.float(), options).eval(), word_tokenizer())
