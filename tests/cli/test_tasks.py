"""The commands for tasks: their results are those of the functions, as tables, as JSON and as a page."""

# ruff: noqa: E402
import json
import re
import warnings
from importlib import import_module

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("sentencex")
pytest.importorskip("typer")

from helpers.cli import run
from helpers.docs_models import save_tiny_t5
from helpers.page_parts import PageParts
from helpers.task_models import LABELS, save_tiny_head
from helpers.tiny_bert import tiny_text

from lckernels import tasks
from lckernels.cli.console import printable


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Head -> a folder with a model."""
    place = tmp_path_factory.mktemp("models")
    return {head: save_tiny_head(place / head, head) for head in LABELS}


def load(folder, auto):
    return (
        getattr(transformers, auto).from_pretrained(folder).eval(),
        transformers.AutoTokenizer.from_pretrained(folder),
    )


def found_as_json(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1 and result.stderr == ""
    return json.loads(result.stdout)


def test_answer(models, book):
    """Of two texts, the second with a byte order mark, which the offsets count."""
    folder, question = models["BertForQuestionAnswering"], "river winter?"
    other = book.with_name("b.txt")
    other.write_text("\ufeff" + tiny_text(9))
    texts = [book.read_text(), tiny_text(9)]
    options = ("--top", 3, "--max-answer-tokens", 4, "--chunk-len", 24, "--overlap", 6, "--html", "page.html")
    sizes = {"top_k": 3, "max_answer_tokens": 4, "chunk_len": 24, "overlap": 6}
    expected = tasks.answer(*load(folder, "AutoModelForQuestionAnswering"), question, texts, **sizes)
    found = found_as_json("answer", book, other, question, "--model", folder, *options)["files"]
    for one, answers, mark in zip(found, expected, (0, 1), strict=True):
        assert one["no_answer"] == pytest.approx(answers.no_answer)
        assert [part["text"] for part in one["answers"]] == [part.text for part in answers.answers]
        assert [part["start"] for part in one["answers"]] == [part.start + mark for part in answers.answers]
    content = other.read_text()
    for part in found[1]["answers"]:
        assert content[part["start"] : part["end"]] == part["text"]
        assert part["line"] == content.count("\n", 0, part["start"]) + 1
    page = PageParts((book.parent / "page.html").read_text())
    assert page.texts == texts and len(page.links) == 6
    for number, answers in enumerate(expected):
        marked = [page.marks[str(number), rank] for rank in range(3)]
        assert marked == [part.text for part in answers.answers]
    printed = run("answer", book, other, question, "--model", folder, *options, "--must-answer").stdout
    assert "no answer" not in printed and f"{book}\n" in printed and f"{other}\n" in printed
    assert "(no answer)" in run("answer", book, question, "--model", folder).stdout


def test_tag(models, book):
    folder = models["BertForTokenClassification"]
    expected = tasks.tag(*load(folder, "AutoModelForTokenClassification"), book.read_text()).entities
    (found,) = found_as_json("tag", book, "--model", folder, "--html", "page.html")["files"]
    assert found["scheme"] == "BIO" and len(expected) > 20
    assert [(one["label"], one["start"], one["text"]) for one in found["entities"]] == [
        (one.label, one.start, one.text) for one in expected
    ]
    page = PageParts((book.parent / "page.html").read_text())
    assert page.texts == [book.read_text()]
    assert [page.marks["0", n] for n in range(len(expected))] == [one.text for one in expected]
    assert [page.labels["0", n] for n in range(len(expected))] == [one.label for one in expected]
    printed = run("tag", book, "--model", folder, "--top", 3).stdout
    assert f"\n{len(expected) - 3:,} more, in --json and in a --html PAGE\n" in printed
    assert len(re.findall(r"^ *(PER|LOC) ", printed, re.M)) == 3
    counts = {label: sum(one.label == label for one in expected) for label in ("PER", "LOC")}
    assert all(f"{count} {label}" in printed for label, count in counts.items() if count)


def test_classify(models, book):
    folder = models["BertForSequenceClassification"]
    expected = tasks.classify(*load(folder, "AutoModelForSequenceClassification"), book.read_text())
    (found,) = found_as_json("classify", book, "--model", folder, "--html", "page.html")["files"]
    assert found["labels"] == [vars(one) for one in expected.labels]
    assert (found["chosen"], found["value"], found["kind"]) == (expected.chosen, None, "single")
    assert (found["coverage"], found["tokens"]) == (1.0, expected.num_tokens)
    page = PageParts((book.parent / "page.html").read_text())
    assert page.texts == [book.read_text()]
    assert f"{expected.chosen[0]} ✓" in page.cells
    printed = run("classify", book, "--model", folder, "--html", "page.html")
    best = expected.labels[0]
    assert re.search(rf"^ *{best.label} +{best.score:.4g} +chosen *$", printed.stdout, re.M)
    assert printed.stdout.endswith("100 % of the text's characters read; single\n\npage: page.html\n")


def test_rank(tmp_path, book):
    folder = save_tiny_head(tmp_path / "reranker", "BertForSequenceClassification", ("relevant",))
    others = {name: tiny_text(count) for name, count in (("b.txt", 9), ("c.md", 3))}
    for name, content in others.items():
        book.with_name(name).write_text(content)
    texts = [book.read_text(), *others.values()]
    files = [book, *map(book.with_name, others)]
    expected = tasks.rank(*load(folder, "AutoModelForSequenceClassification"), "river?", texts)
    found = found_as_json("rank", *files, "river?", "--model", folder, "--html", "page.html")["files"]
    assert [(one["file"], one["rank"]) for one in found] == [
        (str(files[one.index]), number) for number, one in enumerate(expected, start=1)
    ]
    assert [one["score"] for one in found] == pytest.approx([one.score for one in expected])
    page = PageParts((book.parent / "page.html").read_text())
    assert page.texts == [texts[one.index] for one in expected]
    printed = run("rank", *files, "river?", "--model", folder, "--top", 1).stdout
    assert str(files[expected[0].index]) in printed and str(files[expected[1].index]) not in printed


def test_a_progress_bar_on_a_terminal(models, book, monkeypatch):
    folder = models["BertForTokenClassification"]
    assert run("tag", book, "--model", folder).stderr == ""
    monkeypatch.setattr("lckernels.cli.task_model.show_progress", lambda quiet: not quiet)
    assert "LongEncoder: 100%" in run("tag", book, "--model", folder).stderr
    assert run("tag", book, "--model", folder, "--quiet").stderr == ""


def test_warnings_of_a_task_are_remarks(models, book, monkeypatch):
    def warns(*arguments, **options):
        warnings.warn("a remark", UserWarning, stacklevel=2)
        warnings.warn("of a library", FutureWarning, stacklevel=2)
        return classify(*arguments, **options)

    module = import_module("lckernels.tasks.classification.classify")  # of the same name as its function
    classify = module.classify
    monkeypatch.setattr(module, "classify", warns)
    folder = models["BertForSequenceClassification"]
    assert run("classify", book, "--model", folder).stderr == "a remark\n"
    assert run("classify", book, "--model", folder, "--quiet").stderr == ""


def test_rewrite(tmp_path, book):
    folder = tmp_path / "t5"
    save_tiny_t5(folder)
    book.write_text("# One\n\n- The first. The second.\n\n***\n")
    sizes = {"max_new_tokens": 6, "num_beams": 2}
    model = load(folder, "AutoModelForSeq2SeqLM")
    expected = tasks.rewrite(*model, book.read_text(), prefix="to X: ", **sizes)
    options = ("--model", folder, "--prefix", "to X: ", "--max-new-tokens", 6, "--num-beams", 2)
    (found,) = found_as_json("rewrite", book, *options, "--html", "page.html")["files"]
    assert found["text"] == expected.text and found["coverage"] == 1.0
    keys = ("start", "end", "source", "text", "is_cut")
    assert [[part[key] for key in keys] for part in found["parts"]] == [
        [getattr(part, key) for key in keys] for part in expected.parts
    ]
    assert [part["problem"] for part in found["parts"]] == [part.problem or None for part in expected.parts]
    assert len(expected.missing) == 3  # a random model does not end
    page = (book.parent / "page.html").read_text()
    assert page.count("may be incomplete") == 1 and page.count("before an end") == 3
    result = run("rewrite", book, *options)
    assert result.stdout == printable(expected.text)
    assert result.stderr.count("before an end") == 3 and "3 may be incomplete" in result.stderr
    assert run("rewrite", book, *options, "--quiet").stderr == ""


def test_a_summary(tmp_path, book):
    folder = tmp_path / "t5"
    save_tiny_t5(folder)
    options = ("--task", "summarize", "--max-new-tokens", 5, "--chunk-len", 64, "--overlap", 16)
    (found,) = found_as_json("rewrite", book, "--model", folder, *options, "--html", "page.html")["files"]
    (part,) = found["parts"]
    assert (part["start"], part["end"]) == (0, len(book.read_text())) and found["coverage"] == 1.0
    assert '<div class="pair' in (book.parent / "page.html").read_text()


def test_classify_as_several_labels_of_several_texts(models, book):
    folder = models["BertForSequenceClassification"]
    other = book.with_name("b.txt")
    other.write_text("\ufeff" + tiny_text(9))
    options = ("--kind", "multi", "--threshold", 0.0, "--limit", 20, "--chunk-len", 16, "--overlap", 4)
    both = found_as_json("classify", book, other, "--model", folder, *options)["files"]
    assert [one["file"] for one in both] == [str(book), str(other)]
    assert all(len(one["chosen"]) == 3 and one["tokens"] == 20 and one["coverage"] < 1 for one in both)
    result = run("classify", book, other, "--model", folder, *options, "--quiet", "--html", "page.html")
    assert "tokens" not in result.stdout and "page:" not in result.stdout
    page = (book.parent / "page.html").read_text()
    assert PageParts(page).texts == [book.read_text(), tiny_text(9)]
    assert page.count('class="short"') == 2
