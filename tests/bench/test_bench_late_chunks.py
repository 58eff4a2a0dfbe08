"""bench.suites.late_chunks: entries of the book, its queries, ranks by hand, and one small run."""

import json
import math
import re
import sys

import pytest
import torch

pytest.importorskip("transformers")

from helpers.docs_pages import ROOT
from helpers.minilm import requires_minilm

from bench.cases.jargon import TARGET_WORDS, Entry, Lexicon, lexicon, plain_text
from bench.suites import late_chunks


def test_the_entries_of_the_book():
    book = lexicon()
    assert len(book.entries) == 2307
    assert (book.entries[0].headword, book.entries[-1].headword) == ("(TM)", "zorkmid")
    (bug,) = (entry for entry in book.entries if entry.headword == "bug")
    texts = [plain_text(book.text[start:end]) for start, end in bug.passages]
    assert texts[0].startswith(":bug: n. An unwanted and unintended property of a program")
    assert len(texts) == 13 and "cartoon" not in "".join(texts)
    assert all(start < end for start, end in book.passages)
    ends = [end for _, end in book.passages]
    assert all(start >= end for end, (start, _) in zip(ends, book.passages[1:], strict=False))
    # The lists of headwords between two letters are no passages.
    assert max(len(entry.passages) for entry in book.entries) < 40
    assert len(lexicon(50).entries) == 50
    assert lexicon(50).text == book.text[: len(lexicon(50).text)]


def test_targets_and_candidates_lack_the_headword():
    book = lexicon(300)
    passages = [plain_text(book.text[start:end]).lower() for start, end in book.passages]
    queries = book.queries()
    assert len(queries) > 40
    for word, targets, candidates in queries:
        assert {*targets} <= {*candidates}
        assert all(word.lower() not in passages[i] for i in candidates)
        assert all(len(passages[i].split()) >= TARGET_WORDS for i in targets)
        assert len(candidates) < len(passages)


def test_quality_by_hand():
    long = "one two three four five six seven eight"
    text = f"x is it.\n{long}\n{long}\ny x.\n{long}\n"
    lines, at = [], 0
    for line in text.splitlines(keepends=True):
        lines.append((at, at := at + len(line)))
    book = Lexicon(text, [Entry("x is", lines[:3]), Entry("y", lines[3:])])
    assert book.queries() == [("x is", [1, 2], [1, 2, 3, 4]), ("y", [4], [0, 1, 2, 4])]
    vectors = torch.tensor([[9.0, 9], [1, 0], [2, 0], [3, 0], [0, 1]])
    queries = torch.tensor([[1.0, 0], [0, 1]])
    # Passage 3 is before passage 2 for the first query; passage 0 is before passage 4 for the second.
    assert late_chunks.quality(vectors, book, queries) == {"recall@1": 0, "recall@5": 1, "mrr": 0.5}
    vectors[0] = vectors[3] = 0
    assert late_chunks.quality(vectors, book, queries) == {"recall@1": 1, "recall@5": 1, "mrr": 1}
    vectors[4] = 0  # not read: not found, whatever the others are
    found = late_chunks.quality(vectors, book, -queries)
    assert found["recall@5"] == 0.5 and math.isclose(found["mrr"], 0.5)


def test_the_page_has_the_figures_that_are_stored():
    stored = json.loads((ROOT / "bench" / "results" / "late_chunks.json").read_text())
    page = (ROOT / "docs" / "late_chunks.md").read_text(encoding="utf-8")
    in_page = {tuple(cells) for cells in re.findall(r"\| (0\.\d{3}) \| (0\.\d{3}) \| (0\.\d{3}) \|", page)}
    assert in_page == {tuple(f"{x:.3f}" for x in one.values()) for one in stored["results"].values()}
    assert not stored["dirty"] and f"commit\n{stored['commit'][:7]}" in page
    assert f"{stored['shape']['queries']} of the entries" in page


@requires_minilm
def test_a_small_run(tmp_path, monkeypatch, capsys):
    arguments = ["--entries", "12", "--only", "chunk", "--rows", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["late_chunks", *arguments])
    late_chunks.main()
    found = json.loads((tmp_path / "late_chunks.json").read_text())
    assert found["shape"]["entries"] == 12 and found["shape"]["queries"] >= 1
    assert {*found["results"]} >= {"chunk-then-embed", late_chunks.LATE_BOOK, late_chunks.LATE_ENTRY}
    assert all(0 <= value <= 1 for one in found["results"].values() for value in one.values())
    assert "chunk-then-embed" in capsys.readouterr().out


@requires_minilm
def test_what_truncation_leaves_out_is_not_found():
    search = late_chunks.Search(lexicon(12))
    whole, cut = (search.late(by_entry=False, first_tokens=tokens) for tokens in (0, 256))
    assert whole.shape == cut.shape and whole.any(1).all()
    read = cut.any(1)
    assert read[0] and not read[-1]
    assert read.tolist() == sorted(read.tolist(), reverse=True)
