"""lckernels.perplexity: every token is scored once, as defined, in bounded memory."""

# ruff: noqa: E402
import math

import numpy
import pytest
import torch
import torch.nn.functional as F

transformers = pytest.importorskip("transformers")

from helpers.tiny_decoder import POSITIONS, SIZES, byte_tokenizer, eager_or_window, tiny_mistral

from lckernels.errors import InputError
from lckernels.hf.patch import api
from lckernels.perplexity import compare, head, score
from lckernels.perplexity.tokens import tokenize
from lckernels.perplexity.windows import windows


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(api, "patched", eager_or_window)


@pytest.fixture
def model():
    return tiny_mistral()


def some_ids(num_tokens):
    return torch.randint(4, SIZES["vocab_size"], (num_tokens,))


def by_hand(model, ids, context, stride):
    """nll of each token, NaN if no window scores it: one pass a token, over the tokens before it alone."""
    nll, read, begin = torch.full((len(ids),), torch.nan), 0, 0
    while read < len(ids):
        end = min(begin + context, len(ids))
        for token in range(max(read, begin + 1), end):
            with torch.no_grad():
                last = model(input_ids=ids[None, begin:token]).logits[0, -1]
            nll[token] = -torch.log_softmax(last, -1)[ids[token]]
        read, begin = end, begin + stride
    return nll


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 16, 17, 40])
@pytest.mark.parametrize("context", [2, 5, 16])
def test_windows_score_every_token_once(num_tokens, context):
    for stride in range(1, context + 1):
        cut = windows(num_tokens, context, stride)
        scored = [token for window in cut for token in range(window.first, window.end)]
        starts = {0} if stride < context else set(range(0, num_tokens, context))
        assert scored == [token for token in range(num_tokens) if token not in starts]
        assert all(w.begin < w.first < w.end <= w.begin + context and w.begin % stride == 0 for w in cut)
        # All but the first window give a token at least context - stride tokens before it.
        assert all(window.first - window.begin >= max(1, context - stride) for window in cut[1:])


def test_windows_leave_out_what_is_given():
    assert [w.first for w in windows(10, 6, 3, given=3)] == [3, 6, 9]
    assert windows(3, 6, 3, given=3) == []


@pytest.mark.parametrize(("context", "stride"), [(16, 8), (16, 1), (16, 16), (10, 7), (POSITIONS, 5), (2, 1)])
def test_scores_are_those_of_the_definition(model, context, stride):
    ids = some_ids(37)
    expected = by_hand(model, ids, context, stride)
    found = score(model, ids, context=context, stride=stride)
    assert found.nll.dtype == torch.float32
    assert found.scored.equal(~expected.isnan())
    torch.testing.assert_close(found.nll[found.scored], expected[found.scored], rtol=1e-4, atol=1e-4)
    assert not found.nll[~found.scored].any()
    assert found.perplexity == pytest.approx(expected.nanmean().exp().item(), rel=1e-4)
    assert found.tokens_per_second == pytest.approx(37 / found.seconds)


def test_one_window_is_the_loss_of_transformers(model):
    ids = some_ids(POSITIONS)[None]
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss
    assert score(model, ids).perplexity == pytest.approx(loss.exp().item(), rel=1e-5)


def test_window_and_sinks_go_to_patched(model, monkeypatch):
    ids, asked = some_ids(40), []

    def patched(of, **options):
        asked.append((of, options))
        return eager_or_window(of, window=options["window"])

    monkeypatch.setattr(api, "patched", patched)
    narrow = score(model, ids, window=3, sink_tokens=2)
    assert asked == [(model, {"window": 3, "sink_tokens": 2})]
    own = score(tiny_mistral(sliding_window=3), ids)
    torch.testing.assert_close(narrow.nll, own.nll)
    assert not torch.allclose(narrow.nll, score(model, ids).nll, atol=1e-2)


FAMILIES = {
    "llama": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**SIZES)),
    "gpt2": lambda t: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=260, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4)
    ),
    # What these do after the head is part of the model: a softcap, a scale, a divisor.
    "gemma2": lambda t: t.Gemma2ForCausalLM(
        t.Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0, sliding_window=7)
    ),
    "cohere": lambda t: t.CohereForCausalLM(t.CohereConfig(**SIZES, logit_scale=0.3, pad_token_id=3)),
    "granite": lambda t: t.GraniteForCausalLM(t.GraniteConfig(**SIZES, logits_scaling=5.0)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_pieces_of_logits_are_the_models_logits(family, rows, monkeypatch):
    torch.manual_seed(0)
    other = FAMILIES[family](transformers).eval()
    ids = some_ids(30)
    monkeypatch.setattr(head, "PIECE_BYTES", rows * 4 * SIZES["vocab_size"])
    with torch.inference_mode():
        whole = other(input_ids=ids[None]).logits[0].float()
    expected = F.cross_entropy(whole[:-1], ids[1:], reduction="none")
    monkeypatch.setattr(api, "patched", lambda model, **_: torch.no_grad())
    found = score(other, ids, context=30)
    torch.testing.assert_close(found.nll[1:], expected, rtol=1e-5, atol=1e-5)
    assert "forward" not in other.base_model.__dict__
    with torch.inference_mode():
        assert other(input_ids=ids[None]).logits[0].float().equal(whole)


def test_no_more_logits_than_the_bound_exist_at_a_time(model, monkeypatch):
    made, row = [], 4 * SIZES["vocab_size"]
    model.lm_head.register_forward_hook(lambda *call: made.append(call[2].numel() * 4))
    monkeypatch.setattr(head, "_sees_ahead", lambda *_: False)
    monkeypatch.setattr(head, "PIECE_BYTES", 10 * row)
    score(model, some_ids(200), context=64, stride=32)
    assert max(made) == 10 * row
    # Each window also computes one row, with the hidden states.
    assert sum(made) == (199 + len(windows(200, 64, 32))) * row


def test_an_error_leaves_the_model_as_it_was(model, monkeypatch):
    ids = some_ids(20)
    handle = model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    monkeypatch.setattr(head, "_sees_ahead", lambda *_: False)
    with pytest.raises(ZeroDivisionError):
        score(model, ids)
    handle.remove()
    assert "forward" not in model.base_model.__dict__
    assert math.isfinite(score(model, ids).perplexity)


def test_compare_gives_both_and_the_largest_difference(model, monkeypatch):
    ids = some_ids(40)
    monkeypatch.setattr(head, "PIECE_BYTES", 5 * 4 * SIZES["vocab_size"])
    found = compare(model, ids, context=40, window=4)
    with torch.no_grad():
        wide = model(input_ids=ids[None]).logits[0, :-1]
        narrow = tiny_mistral(sliding_window=4)(input_ids=ids[None]).logits[0, :-1]
    assert found.difference == pytest.approx((wide - narrow).abs().max().item(), rel=1e-4)
    assert found.largest == pytest.approx(wide.abs().max().item(), rel=1e-5)
    assert found.stock.perplexity == pytest.approx(F.cross_entropy(wide, ids[1:]).exp().item(), rel=1e-4)
    assert found.patched.perplexity == pytest.approx(F.cross_entropy(narrow, ids[1:]).exp().item(), rel=1e-4)
    assert compare(model, ids).difference < 1e-4 * found.largest
    assert found.stock.seconds > 0 and found.patched.seconds > 0


def test_a_nan_is_not_lost(model, monkeypatch):
    """Neither in the perplexity nor in the difference, wherever it is."""
    ids = some_ids(40)
    monkeypatch.setattr(head, "PIECE_BYTES", 5 * 4 * SIZES["vocab_size"])
    monkeypatch.setattr(head, "_sees_ahead", lambda *_: False)
    with torch.no_grad():
        model.model.embed_tokens.weight[ids[12]] = torch.nan
    found = compare(model, ids, context=40, stride=40)
    assert math.isnan(found.difference) and math.isnan(found.patched.perplexity)
    assert found.patched.num_scored == 39


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 1}, "context: got 1; expected at least 2"),
        ({"context": POSITIONS + 1}, "context: got 65; MistralForCausalLM has 64 positions"),
        ({"context": 8, "stride": 9}, "stride: got 9; expected 1 <= stride <= context = 8"),
        ({"stride": POSITIONS + 1}, "stride: got 65; expected 1 <= stride <= context = 64"),
        ({"stride": 0}, "stride: got 0; expected 1 <= stride$"),
        ({"window": 0}, "window: got 0; expected an int >= 1"),
        ({"window": 4, "sink_tokens": -1}, "sink_tokens: got -1; expected an int >= 0"),
        ({"sink_tokens": 4}, "sink_tokens: got 4; sink tokens require a window; window is None"),
    ],
)
def test_sizes_that_do_not_fit(model, options, message):
    for call in (score, compare):
        with pytest.raises(ValueError, match=f"^{message}"):
            call(model, some_ids(70), **options)


@pytest.mark.parametrize("name", ["context", "stride", "window", "given"])
def test_sizes_are_integers(model, name):
    for value in (8.0, True, "8"):
        with pytest.raises(TypeError, match=f"^{name}: got {value!r}; expected an int"):
            score(model, some_ids(30), **{name: value})


@pytest.mark.parametrize("kind", [numpy.int64, numpy.uint8])
def test_sizes_of_numpy(model, kind):
    sizes = {"context": 60, "stride": 30, "given": 3, "window": 5}
    of_numpy = {name: kind(size) for name, size in sizes.items()}
    ids = some_ids(300)  # a place in it is beyond uint8
    assert torch.equal(score(model, ids, **of_numpy).nll, score(model, ids, **sizes).nll)


def test_models_and_texts_that_cannot_be_scored(model):
    with pytest.raises(ValueError, match="input_ids: got 1 tokens; expected at least 2"):
        score(model, some_ids(1))
    with pytest.raises(ValueError, match="got MistralForCausalLM in training mode"):
        score(model.train(), some_ids(9))
    with pytest.raises(TypeError, match="model: got MistralModel; expected a causal language model"):
        score(model.model.eval(), some_ids(9))
    sizes = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    bert = transformers.BertLMHeadModel(transformers.BertConfig(**sizes))
    with pytest.raises(TypeError, match="got BertLMHeadModel, which sees the tokens that it is to predict"):
        score(bert.eval(), some_ids(9))


@pytest.mark.parametrize("bos", [True, False])
def test_bytes_of_tokens(bos):
    text = "né </s> 学\U0001f600x"
    tokens = tokenize(byte_tokenizer(bos), text)
    assert tokens.given == int(bos)
    assert len(tokens.input_ids) == len(text.encode()) + bos
    assert int(tokens.num_bytes.sum()) == len(text.encode())
    assert tokens.num_bytes.tolist()[: 2 + bos] == [0] * bos + [1, 2]
    assert (tokens.input_ids[bos:] > 3).all()  # </s> is text, and there is none at the end
    assert len(tokenize(byte_tokenizer(bos), text, max_tokens=5).input_ids) == 5 + bos
    with pytest.raises(InputError, match="no token that is not a special one"):
        tokenize(byte_tokenizer(bos), "")


def test_bits_per_byte(model):
    tokens = tokenize(byte_tokenizer(), "a text of bytes " * 5)
    found = score(model, tokens.input_ids, given=tokens.given)
    assert found.num_scored == 80
    expected = math.log2(found.perplexity)
    assert found.bits_per_byte(tokens.num_bytes) == pytest.approx(expected, rel=1e-6)


def test_perplexity_by_position(model):
    found = score(model, some_ids(60), context=20, stride=20)
    middles, within = found.by_position(6)
    assert middles.tolist() == [5.0, 15.0, 25.0, 35.0, 45.0, 55.0]
    parts = [part[kept] for part, kept in zip(found.nll.split(10), found.scored.split(10), strict=True)]
    torch.testing.assert_close(within, torch.stack([part.double().mean().exp() for part in parts]))
    middles, _ = found.by_position(1000)
    assert len(middles) == 57


def test_on_lckernels_attention(model, monkeypatch):
    monkeypatch.undo()
    ids = some_ids(150)
    found = compare(model, ids)
    assert found.difference < 1e-4 * found.largest
    narrow = score(model, ids, window=5)
    own = compare(tiny_mistral(sliding_window=5), ids)
    torch.testing.assert_close(narrow.nll, own.stock.nll, rtol=1e-4, atol=1e-4)
    assert own.difference < 1e-4 * own.largest
    sinks = score(model, ids, window=5, sink_tokens=2)
    assert (sinks.nll - narrow.nll).abs().max() > 1e-2
