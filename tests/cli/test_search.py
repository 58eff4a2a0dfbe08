"""Late chunking, states on disk, the picture and the table of backends: the parts under the command line."""

# ruff: noqa: RUF001
from itertools import pairwise
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("rich")

from helpers.tiny_bert import save_tiny_bert, tiny_text

from lckernels import info
from lckernels.backends import registry
from lckernels.long.text_encoder import TextEncoder
from lckernels.passages import Passages, pack, passage_vectors, split_passages
from lckernels.text_files import read_text


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return TextEncoder(str(save_tiny_bert(tmp_path_factory.mktemp("model"))), chunk_len=16, overlap=4)


def text_of(tmp_path, content):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    return read_text(path)


def test_positions_in_a_text(tmp_path):
    text = text_of(tmp_path, "\ufefféin\n\nzwei\n  drei\n  vier".encode())
    assert text.content.startswith("éin")
    at = text.content.index("vier")
    assert text.line(at) == 5
    assert text.percent(at) == pytest.approx(100 * at / len(text.content))
    start = text.content.index("zwei")
    assert text.lines(start, len(text.content)) == "zwei\ndrei\nvier"


@pytest.mark.parametrize(
    ("content", "language"), [("A river. A hill.", "en"), ("子曰：“学而时习之。”", "zh")]
)
def test_language_is_guessed(tmp_path, content, language):
    assert text_of(tmp_path, content.encode()).language() == language


@pytest.mark.parametrize(
    ("tiers", "cuts"),
    [
        pytest.param([[4, 9], [3, 7, 9, 14]], [0, 9, 14, 20], id="the last kind where the first has none"),
        pytest.param([[6], [6, 9]], [0, 6, 9, 19, 20], id="the first kind, the last, then full"),
        pytest.param([[3], [3, 9]], [0, 9, 19, 20], id="not in the first half"),
        pytest.param([[], []], [0, 10, 20], id="no boundary: full passages"),
        pytest.param([[], [10, 20]], [0, 10, 20], id="a boundary at the limit"),
    ],
)
def test_pack(tiers, cuts):
    assert pack(tiers, 20, 10) == cuts


def test_passages_are_whole_sentences_and_hold_every_token_once(encoder):
    content = tiny_text()
    tokens = encoder.tokenize(content)
    passages = split_passages(content, tokens.offsets, "en", 24)
    bounds = passages.tokens.tolist()
    assert bounds[0] == 0
    assert bounds[-1] == len(tokens.offsets)
    assert all(0 < end - start <= 24 for start, end in pairwise(bounds))
    assert all(content[start:end].endswith(".") for start, end in passages.chars.tolist())
    assert len(passages) > 10


def test_a_heading_stays_with_its_text(encoder):
    body = "Silver harbour river garden shadow. Shadow window garden letter mountain."
    content = f"{body}\n\nWinter engine\n\n{body}\n"
    tokens = encoder.tokenize(content)
    passages = split_passages(content, tokens.offsets, "en", 15)
    assert [content[start:end] for start, end in passages.chars.tolist()] == [
        body,
        f"Winter engine\n\n{body}",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_passage_vectors_are_means(dtype):
    states = torch.randn(50, 8).to(dtype) + 100
    bounds = torch.tensor([0, 1, 17, 49, 50])
    passages = Passages(bounds, torch.zeros(4, 2, dtype=torch.int64))
    for vector, start, end in zip(passage_vectors(states, passages), bounds, bounds[1:], strict=False):
        mean = sum(states[row].double() for row in range(start, end)) / (end - start)
        torch.testing.assert_close(vector.double(), mean / mean.norm(), atol=1e-6, rtol=0)


def test_a_short_text_has_the_models_own_states(encoder):
    content = "Silver harbour river."
    tokens = encoder.tokenize(content)
    encoded = encoder.encode(tokens, content, "en", print)
    with torch.inference_mode():
        own = encoder.encoder.model(input_ids=tokens.input_ids).last_hidden_state[0]
    torch.testing.assert_close(encoded.states, own[1:-1])
    torch.testing.assert_close(encoder.embed(content), torch.nn.functional.normalize(own.mean(0), dim=0))
    assert encoded.num_chunks == 1


def test_names_of_special_tokens_in_a_text_are_text(encoder):
    tokens = encoder.tokenize("river [SEP] winter")
    separator = encoder.tokenizer.sep_token_id
    assert (tokens.input_ids == separator).sum() == 1
    assert len(tokens.offsets) == tokens.input_ids.shape[1] - 2


def test_sentence_boundaries_change_the_chunks(encoder, tmp_path):
    content = tiny_text(12)
    by_sentence = TextEncoder(encoder.name, chunk_len=16, overlap=4, boundaries="sentence")
    tokens = by_sentence.tokenize(content)
    states = by_sentence.encode(tokens, content, "en", print).states
    assert states.shape == (len(tokens.offsets), 16)
    assert not torch.equal(states, encoder.encode(tokens, content, "en", print).states)
    assert by_sentence.identity("en") != encoder.identity("en")
    assert by_sentence.identity("en") != by_sentence.identity("fr")
    assert encoder.identity("en") == encoder.identity("fr")


def test_identity_differs_between_models(encoder, tmp_path):
    again = TextEncoder(encoder.name, chunk_len=16, overlap=4)
    assert again.identity("en") == encoder.identity("en")
    with torch.no_grad():
        next(again.encoder.model.parameters()).view(-1)[0] += 1
    assert again.identity("en")["weights_sha256"] != encoder.identity("en")["weights_sha256"]


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from lckernels.cli.figures.search import plot_search

    text = text_of(tmp_path, ("$x_ 学 " * 300).encode())
    chars = torch.arange(0, 1000, 10)[:, None] + torch.tensor([0, 10])
    scores = torch.linspace(-0.2, 0.6, 100)
    for count in (1, 5):
        best = scores.topk(count).indices
        plot_search(tmp_path / "a.png", text, "x_$^{ 学?", chars, scores, best)
        picture = imread(tmp_path / "a.png")
        assert picture.shape[0] > 500
        assert picture.std() > 0.05
    plot_search(tmp_path / "a.svg", text, "?", chars[:1], scores[:1], torch.tensor([0]))
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_labels_of_neighbours_are_joined():
    pytest.importorskip("matplotlib")
    from lckernels.cli.figures.search import _labels

    assert _labels([50.0, 10.0, 50.5, 49.5], [0.9, 0.8, 0.7, 0.6]) == [
        (10.0, 0.8, "2"),
        (50.0, 0.9, "1, 3, 4"),
    ]


def test_served_gives_every_backend_an_answer():
    rows = info.served()
    assert {row[0] for row in rows} == set(registry.op_names())
    for op, _, dtypes, backend, others in rows:
        assert backend in ("cpu", "eager"), op
        assert dtypes
        left = [name for name in registry.backends() if name != backend]
        assert [other.split(":")[0] for other in others] == left, op


@pytest.mark.parametrize(
    ("name", "least", "language"),
    [("jargon-file.txt", 1_000_000, "en"), ("chinese-classics.txt", 100_000, "zh")],
)
def test_the_books_are_those_of_their_readme(name, least, language):
    folder = Path(__file__).resolve().parents[2] / "bench" / "data"
    text = read_text(folder / name)
    size = (folder / name).stat().st_size
    assert size >= least
    assert text.language() == language
    row = f"| `{name}` | {size:,} | {len(text.content):,} | `{text.sha256}` |"
    assert row in (folder / "README.md").read_text(encoding="utf-8")
