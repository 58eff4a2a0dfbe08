"""Special tokens at the start of a text begin every context, where the tokenizer adds them."""

# ruff: noqa: E402
import json

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("typer")

from helpers.cli import error_message, run
from helpers.tiny_bert import tiny_text
from helpers.tiny_decoder import SIZES, byte_tokenizer, save_tiny_decoder, tiny_mistral

from lckernels.perplexity import score
from lckernels.perplexity.tokens import tokenize
from lckernels.perplexity.windows import windows


@pytest.fixture
def model():
    return tiny_mistral()


def some_ids(num_tokens, start=(0,)):
    return torch.tensor([*start, *torch.randint(4, SIZES["vocab_size"], (num_tokens - len(start),))])


def by_hand(model, ids, repeated, context, stride):
    """nll of each token behind the first `repeated`: one pass a token, over these and those before it."""
    nll, read, begin = torch.full((len(ids),), torch.nan), repeated, repeated
    while read < len(ids):
        end = min(begin + context - repeated, len(ids))
        for token in range(max(read, begin), end):
            with torch.no_grad():
                read_ids = torch.cat([ids[:repeated], ids[begin:token]])
                last = model(input_ids=read_ids[None]).logits[0, -1]
            nll[token] = -torch.log_softmax(last, -1)[ids[token]]
        read, begin = end, begin + stride
    return nll


@pytest.mark.parametrize("repeated", [1, 2])
@pytest.mark.parametrize(("context", "stride"), [(16, 8), (16, 1), (16, 16), (10, 7), (3, 1)])
def test_scores_are_those_of_the_definition(model, repeated, context, stride):
    ids = some_ids(37, start=range(repeated))
    found = score(model, ids, context=context, stride=stride, given=repeated, bos="every")
    expected = by_hand(model, ids, repeated, context, min(stride, context - repeated))
    assert found.scored.tolist() == [False] * repeated + [True] * (37 - repeated)
    torch.testing.assert_close(found.nll[repeated:], expected[repeated:], rtol=1e-4, atol=1e-4)
    first = score(model, ids, context=context, stride=stride, given=repeated, bos="first")
    assert (first.nll - found.nll)[context:].abs().max() > 1e-2


def test_windows_hold_the_repeated_tokens():
    for window in windows(40, 10, 4, given=2, repeated=2):
        assert window.num_tokens <= 10 and window.begin >= 2
        assert list(window.scored) == [token - window.begin + 2 for token in range(window.first, window.end)]


def test_the_default_depends_on_the_first_token(model):
    model.config.bos_token_id = 0
    for start, default in (((0,), "every"), ((7,), "first")):
        ids = some_ids(40, start)
        assert score(model, ids, context=16).nll.equal(score(model, ids, context=16, bos=default).nll)
    ids = some_ids(40)
    model.config.bos_token_id = None
    assert score(model, ids, context=16).nll.equal(score(model, ids, context=16, bos="first").nll)


def test_errors(model):
    with pytest.raises(ValueError, match=r"^bos: got 'all'; allowed are 'every', 'first' and None"):
        score(model, some_ids(20), bos="all")
    with pytest.raises(ValueError, match=r"^given: got 0; bos='every' repeats the first `given` tokens"):
        score(model, some_ids(20), bos="every", given=0)
    with pytest.raises(ValueError, match=r"^context: got 3; expected more than the 3 tokens"):
        score(model, some_ids(20), bos="every", given=3, context=3)


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "book.txt"
    path.write_text(tiny_text(6))
    return path


def test_the_command_repeats_what_the_tokenizer_adds(tmp_path, book):
    folder = save_tiny_decoder(tmp_path / "model")
    tokens = tokenize(byte_tokenizer(), book.read_text())
    options = ("--context", 20, "--stride", 20)
    command = ("perplexity", book, "--model", folder, "-q", *options)
    for bos, more in (("every", ()), ("every", ("--bos", "every")), ("first", ("--bos", "first"))):
        found = json.loads(run(*command, *more, "--json").stdout)
        expected = score(tiny_mistral(), tokens.input_ids, context=20, stride=20, bos=bos)
        assert found["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
        assert (found["bos"], found["stride"]) == (bos, 20 if bos == "first" else 19)
        assert found["scored"] == expected.num_scored
    head = run(*command).stdout.splitlines()[0]
    assert "(context 20, stride 19, <s> in every context)" in head
    head = run(*command, "--bos", "first").stdout.splitlines()[0]
    assert "(context 20, stride 20, <s> in the first context only)" in head


def test_a_stride_that_is_reduced_is_a_remark(tmp_path, book):
    command = ("perplexity", book, "--model", save_tiny_decoder(tmp_path / "model"), "--context", 20)
    reduced = "--stride 20 becomes 19: each context begins with 1 special token\n"
    assert run(*command, "--stride", 20).stderr.startswith(f"{reduced}reading ")
    for options in (("--stride", 19), (), ("--stride", 20, "--bos", "first"), ("--stride", 20, "-q")):
        assert "becomes" not in run(*command, *options).stderr


def test_the_command_with_a_tokenizer_that_adds_none(tmp_path, book):
    folder = save_tiny_decoder(tmp_path / "model", bos=False)
    command = ("perplexity", book, "--model", folder, "-q")
    assert json.loads(run(*command, "--json").stdout)["bos"] is None
    assert "(context 64, stride 32), the model" in run(*command).stdout
    assert "--bos: got every; the tokenizer of" in error_message(*command, "--bos", "every")


def test_a_prompt_is_not_repeated_by_default(model):
    """Several `given` tokens may be a prompt as well as special tokens."""
    ids = some_ids(60)
    model.config.bos_token_id = int(ids[0])
    default, first = (score(model, ids, context=16, given=10, bos=bos).nll for bos in (None, "first"))
    assert torch.equal(default, first)
    assert score(model, ids, context=16, given=16).num_scored == 44
    one, every = (score(model, ids, context=16, given=1, bos=bos).nll for bos in (None, "every"))
    assert torch.equal(one, every)
