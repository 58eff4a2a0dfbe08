"""Bad input of late_chunks: one message with the argument, before the model runs."""

import pytest
import torch
from helpers.tiny_bert import save_tiny_bert, tiny_text

import lckernels
from lckernels.long.tokens import Tokens
from lckernels.tasks import late_chunks

transformers = pytest.importorskip("transformers")

TEXT = tiny_text(6)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = save_tiny_bert(tmp_path_factory.mktemp("bert") / "model")
    return transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(
        folder
    )


@pytest.fixture
def no_run(loaded, monkeypatch):
    """The model and its tokenizer; a forward of LongEncoder fails the test."""
    monkeypatch.setattr(lckernels.LongEncoder, "forward", lambda *_, **__: pytest.fail("the model has run"))
    return loaded


SPAN_ERRORS = {
    "outside": ([(0, 4), (5, 10**4)], r"spans\[1\]: got \(5, 10000\); expected 0 <= start < end <= \d+"),
    "negative": ([(-3, 4)], r"spans\[0\]: got \(-3, 4\); expected 0 <= start"),
    "empty": ([(3, 3)], r"spans\[0\]: got \(3, 3\); expected 0 <= start < end"),
    "reversed": ([(9, 3)], r"spans\[0\]: got \(9, 3\)"),
    "triples": ([(0, 3, 4)], r"spans: got shape \(1, 3\); expected pairs \(start, end\)"),
    "flat": ([0, 3], r"spans: got shape \(2,\) of torch.int64; expected pairs"),
    "floats": ([(0.0, 3.5)], r"spans: got shape \(1, 2\) of torch.float32; expected pairs"),
    "words": (["river"], r"spans: got \['river'\]; expected pairs"),
}


@pytest.mark.parametrize("spans, message", SPAN_ERRORS.values(), ids=SPAN_ERRORS)
def test_spans(no_run, spans, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        late_chunks(*no_run, TEXT, spans)


@pytest.mark.parametrize("text, span", [("river  garden", (5, 7)), ("river \u0001 garden", (6, 7))])
def test_a_span_without_a_token(no_run, text, span):
    with pytest.raises(ValueError, match=r"^spans\[1\]: got .* makes no token of them; expected a span with"):
        late_chunks(*no_run, text, [(0, 5), span])


def test_white_space_within_a_token(no_run, monkeypatch):
    """Of a tokenizer whose tokens contain the space before a word."""
    tokens = Tokens(torch.tensor([[2, 7, 8, 3]]), torch.tensor([[0, 5], [5, 12]]), 1)
    monkeypatch.setattr("lckernels.tasks.span_encoder.tokenize", lambda *_: tokens)
    with pytest.raises(ValueError, match=r"spans\[0\]: got \(5, 6\), the characters ' '"):
        late_chunks(*no_run, "river garden", [(5, 6)])


def test_texts(no_run):
    with pytest.raises(TypeError, match=r"^text\[1\]: got int; expected a str"):
        late_chunks(*no_run, [TEXT, 3])
    with pytest.raises(TypeError, match=r"^text: got int; expected a str"):
        late_chunks(*no_run, 3)
    with pytest.raises(ValueError, match=r"^spans: got 1 lists; expected one for each of 2 texts"):
        late_chunks(*no_run, [TEXT, TEXT], [[(0, 3)]])
    with pytest.raises(ValueError, match=r"^spans\[1\]\[0\]: got \(0, 99999\)"):
        late_chunks(*no_run, [TEXT, TEXT], [[(0, 3)], [(0, 99999)]])


def test_tokenizers(no_run):
    model, tokenizer = no_run
    with pytest.raises(TypeError, match=r"^tokenizer: got None; expected the model's fast tokenizer"):
        late_chunks(model, None, TEXT)
    slow = transformers.CanineTokenizer()
    with pytest.raises(TypeError, match=r"^tokenizer: got CanineTokenizer, without offsets of its tokens"):
        late_chunks(model, slow, TEXT)
    encoder = lckernels.LongEncoder(model, special_tokens=(0, 0))
    with pytest.raises(ValueError, match=r"^tokenizer: got \(1, 1\) special tokens .* encoder are \(0, 0\)"):
        late_chunks(encoder, tokenizer, TEXT)


def test_models(no_run):
    _, tokenizer = no_run
    with pytest.raises(TypeError, match=r"^model: got str; expected a model"):
        late_chunks("x", tokenizer, TEXT)
    with pytest.raises(TypeError, match=r"^model: got Linear"):
        late_chunks(torch.nn.Linear(2, 2), tokenizer, TEXT)
    decoder = transformers.GPT2Model(transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=60))
    with pytest.raises(TypeError, match=r"^model: got GPT2Model"):
        late_chunks(decoder.eval(), tokenizer, TEXT)


def test_training_mode(no_run):
    model, tokenizer = no_run
    model.train()
    try:
        with pytest.raises(ValueError, match=r"^model: got BertModel in training mode; expected model.eval"):
            late_chunks(model, tokenizer, TEXT)
    finally:
        model.eval()


def test_options(no_run):
    model, tokenizer = no_run
    encoder = lckernels.LongEncoder(model)
    with pytest.raises(ValueError, match=r"^options: got chunk_len, overlap for LongEncoder, which has its"):
        late_chunks(encoder, tokenizer, TEXT, chunk_len=16, overlap=3)
    with (
        lckernels.lengthened(model, tokenizer),
        pytest.raises(ValueError, match=r"^options: got overlap for BertModel"),
    ):
        late_chunks(model, tokenizer, TEXT, overlap=3)
    with pytest.raises(ValueError, match=r"^chunk_len: got 99; BertModel has 32 usable positions"):
        late_chunks(model, tokenizer, TEXT, chunk_len=99)
    with pytest.raises(TypeError, match=r"stride"):
        late_chunks(model, tokenizer, TEXT, stride=3)
    with pytest.raises(ValueError, match=r"^passage_tokens: got 0; expected an int >= 1"):
        late_chunks(model, tokenizer, TEXT, passage_tokens=0)
    with pytest.raises(ValueError, match=r"^language: got 'English'"):
        late_chunks(model, tokenizer, TEXT, language="English")


def test_virtual_tokens(loaded):
    peft = pytest.importorskip("peft")
    model, tokenizer = loaded
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2)
    wrapped = peft.get_peft_model(transformers.BertModel(model.config), config).eval()
    with pytest.raises(TypeError, match=r"with virtual tokens, .*; LongEncoder\(model\) supports"):
        late_chunks(wrapped, tokenizer, TEXT)
    assert late_chunks(lckernels.LongEncoder(wrapped), tokenizer, TEXT, []).coverage == 1.0


def test_joints(no_run):
    _, tokenizer = no_run
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, n_positions=16
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    lckernels.lengthen(model, tokenizer, joints=1)
    with pytest.raises(ValueError, match=r"^model: got T5ForConditionalGeneration lengthened with joints"):
        late_chunks(model, tokenizer, TEXT)
