"""Pages of the tasks: all characters of a text, every highlight, and nothing that runs or loads."""

# ruff: noqa: RUF001 (Chinese punctuation)
import math
import random
import re
from types import SimpleNamespace

import pytest

pytest.importorskip("typer")

from helpers.page_parts import PageParts
from helpers.page_results import HOSTILE, curve, span, tags, text_of

from lckernels.cli.pages.answer import answer_page
from lckernels.cli.pages.classify import classify_page
from lckernels.cli.pages.curve import curve_figure
from lckernels.cli.pages.elements import save_page
from lckernels.cli.pages.marks import Mark, text_blocks
from lckernels.cli.pages.rank import rank_page
from lckernels.cli.pages.rewrite import rewrite_page
from lckernels.cli.pages.tables import ROWS
from lckernels.cli.pages.tag import tag_page
from lckernels.errors import InputError
from lckernels.tasks.rewriting.rewritten import Part, Rewritten


def tagged(content, spans):
    return PageParts(tag_page("model", [(text_of(content), tags(content, spans))]))


def test_markup_in_a_text_its_name_and_its_labels_is_text():
    content = f"{HOSTILE} {HOSTILE}"
    found = tags(content, [(0, 30, HOSTILE), (40, 60, "PER")])
    page = tag_page(HOSTILE, [(text_of(content, HOSTILE), found)])
    parts = PageParts(page)
    assert parts.texts == [content]
    assert parts.marks == {("0", 0): content[:30], ("0", 1): content[40:60]}
    assert parts.labels["0", 0] == HOSTILE
    assert (len(parts.scripts), parts.handlers, parts.addresses) == (1, [], [])
    assert parts.tags.get("b", 0) == parts.tags.get("img", 0) == 0
    assert "'unsafe-inline'" not in page and "default-src 'none'" in page


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("a\r\nb\x00c\x1bd\te", "a\nb\ufffdc\ufffdd\te"),
        ("\n\n begins with lines\n\n", "\n\n begins with lines\n\n"),
        ("𝒳 👩‍👩‍👧 e\u0301 ｗｉｄｅ 北京", "𝒳 👩‍👩‍👧 e\u0301 ｗｉｄｅ 北京"),
        ("\udcff lone", "\ufffd lone"),
    ],
)
def test_control_characters_line_ends_and_wide_characters(content, shown):
    assert tagged(content, []).texts == [shown]


def test_offsets_of_wide_characters():
    content = "👩‍👩‍👧 住在北京市。𝒳 ist ein Zeichen."
    start = content.index("北京市")
    parts = tagged(content, [(start, start + 3, "LOC"), (content.index("𝒳"), content.index("𝒳") + 1, "X")])
    assert parts.marks == {("0", 0): "北京市", ("0", 1): "𝒳"}
    assert parts.texts == [content]


def test_marks_that_overlap_cross_and_are_equal():
    content = "0123456789" * 3
    spans = [(0, 10, "A"), (5, 15, "B"), (6, 8, "C"), (6, 8, "D"), (14, 30, "E"), (0, 30, "F")]
    parts = tagged(content, spans)
    assert parts.marks == {("0", n): content[start:end] for n, (start, end, _) in enumerate(spans)}
    assert parts.labels == {("0", n): label for n, (*_, label) in enumerate(spans)}
    assert parts.texts == [content]


def test_random_marks_over_blocks():
    """Marks over the ends of blocks, of long lines too: each has its characters, one id and one label."""
    draw = random.Random(0)
    for _ in range(20):
        lines = ["x" * draw.choice([0, 1, 80, 1500, 21_000, 50_000]) for _ in range(draw.randrange(1, 12))]
        content = "\n".join(lines) + "." + "\n" * draw.randrange(3)
        marks = []
        for n in range(draw.randrange(30)):
            start = draw.randrange(len(content))
            marks.append(
                Mark(start, start + draw.randrange(1, len(content) - start + 1), f"L{n}", n, f"n{n}")
            )
        html = f'<section data-d="7"><div class="text">{text_blocks(content, marks, "7")}</div></section>'
        parts = PageParts(html)
        assert parts.texts == [content]
        assert parts.marks == {("7", n): content[one.start : one.end] for n, one in enumerate(marks)}
        assert parts.labels == {("7", n): one.label for n, one in enumerate(marks)}
        assert sorted(parts.ids) == sorted(f"m7-{n}" for n in range(len(marks)))


def test_blocks_end_with_lines_and_no_block_is_long():
    content = "".join(f"line {n}\n" for n in range(3000)) + "北京。" * 30_000
    sizes = [len(block) for block in re.findall(r">([^<]*)</div>", text_blocks(content))]
    assert sum(sizes) == len(content)
    assert max(sizes) <= 20_000
    assert text_blocks(content).count("block continued") == 4


def test_labels_differ_in_more_than_colour():
    content = "0123456789" * 4
    spans = [(n, n + 1, f"L{n:02}") for n in range(32)]
    page = tag_page("model", [(text_of(content), tags(content, spans))])
    styles = re.findall(r'<mark class="(c\d s\d) e0 z" data-m', page)
    assert len(set(styles)) == len(styles) == 32
    assert all(f'data-l="L{n:02}"' in page for n in range(32))


def test_every_row_has_a_link_to_its_highlight():
    content = "ab " * 1000
    count = 2 * ROWS + 1
    parts = tagged(content, [(3 * n, 3 * n + 2, "PER") for n in range(count)])
    assert len(parts.marks) == count == len(parts.links)
    assert {link[1:] for link in parts.links} <= set(parts.ids)
    assert parts.tags["table"] == 3 and parts.tags["details"] == 2
    assert "row 201 to 400 of 401 rows" in parts.cells


def test_answers():
    content = "The first moth was found in 1947.\nIt was <taped> into the log."
    found = SimpleNamespace(
        answers=[span(content, 28, 32, 0.75), span(content, 41, 48, 0.125)],
        no_answer=0.0625, coverage=0.5, num_tokens=12, curve=curve(len(content)),
    )  # fmt: skip
    page = answer_page("When <was> it?", "model", [(text_of(content), found)] * 2)
    parts = PageParts(page)
    assert parts.marks == {(d, n): one for d in "01" for n, one in enumerate(("1947", "<taped>"))}
    assert parts.notes["1", 1] == "answer 2, score 0.125"
    assert parts.labels["0", 0] == "1"
    assert {
        "When <was> it?",
        "0.750",
        "no answer: 0.062",
        "12 tokens, 50 % of the text's characters read",
    } <= set(parts.cells)
    assert 'class="short"' in page and parts.tags["path"] >= 2
    assert len(parts.ids) == len(set(parts.ids))


def test_classes_with_and_without_a_curve():
    labels = [SimpleNamespace(label="<sport>", score=0.75), SimpleNamespace(label="news", score=math.nan)]
    found = SimpleNamespace(
        kind="single", labels=labels, chosen=["<sport>"], value=None, coverage=1.0, num_tokens=3, curve=None
    )
    parts = PageParts(classify_page("model", [(text_of("some text"), found)]))
    assert {"<sport> ✓", "0.75", "news", "nan"} <= set(parts.cells)
    assert parts.tags["svg"] == 2 and parts.texts == ["some text"]
    found.curve, found.kind = curve(9), "regression"
    assert PageParts(classify_page("model", [(text_of("some text"), found)])).tags["svg"] == 1


def test_ranked_texts_are_whole():
    found = [
        (text_of("b" * 5000, "b.txt"), SimpleNamespace(score=2.5, coverage=1.0, num_tokens=7)),
        (text_of("a <b>", "a.txt"), SimpleNamespace(score=-1.0, coverage=0.5, num_tokens=7)),
    ]
    page = rank_page("query", "model", found, 3)
    parts = PageParts(page)
    assert parts.texts == ["b" * 5000, "a <b>"]
    assert re.findall(r'rect width="([\d.]+)"', page) == ["100.0", "0.0"]
    assert {link[1:] for link in parts.links} == set(parts.ids) == {"t1", "t2"}
    assert "2 of 3 texts" in parts.cells
    assert PageParts(rank_page("query", "model", found[:1], 1)).texts == ["b" * 5000]


def test_source_and_result_side_by_side():
    content = "# Title\n\n- One <i>. Two.\n- Three.\n***\n"
    spans = [(2, 7, "Titel"), (11, 19, "Eins <i>."), (20, 24, ""), (27, 33, "Drei.")]
    parts = [Part(a, b, content[a:b], t, "" if t else "no <output>") for a, b, t in spans]
    written = "# Titel\n\n- Eins <i>. \n- Drei.\n***\n"
    found = Rewritten(written, parts, coverage=0.9, num_tokens=8)  # the tokenizer has dropped a character
    page = rewrite_page("translate", "model", [(text_of(content), found)])
    rows = re.findall(
        r'<div class="pair([^"]*)"><div dir="auto">(.*?)</div><div dir="auto">(.*?)</div></div>', page, re.S
    )
    assert rows == [
        (" head", "source", "result"),
        ("", "# Title", "# Titel"),
        (" gap", "- One &lt;i&gt;.", "- Eins &lt;i&gt;."),
        (" missing", "Two.", '<span class="short"> (no &lt;output&gt;)</span>'),
        (" gap", "- Three.", "- Drei."),
        (" gap copied", "***", "***"),
    ]
    assert "1 may be incomplete" in PageParts(page).cells
    found = Rewritten(written[:-5], parts, coverage=0.5, num_tokens=8)
    assert '<div class="pair gap missing"><div dir="auto">***</div>' in rewrite_page(
        "t", "m", [(text_of(content), found)]
    )


@pytest.mark.parametrize("values", [(0.5,), (math.nan, -math.inf), (-3.0, math.inf, -1.0, -2.0), (0.0, 0.0)])
def test_curves_of_any_values(values):
    drawn = curve_figure(curve(10, values), 10, [0, 9])
    assert "nan" not in drawn and "inf" not in drawn
    path = "".join(re.findall(r'class="line" d="([^"]*)"', drawn))
    assert len(re.findall(r"H", path)) == sum(map(math.isfinite, values))
    assert all(0 <= float(y) <= 120 for y in re.findall(r"[ML][\d.]+ ([-\d.]+)", path))
    assert path.count("M") == (2 if math.inf in values else 1 if any(map(math.isfinite, values)) else 0)


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "page.html"
    save_page(path, "one")
    with pytest.raises(UnicodeEncodeError):
        save_page(path, "\ud800" * 10)
    assert path.read_text() == "one" and [one.name for one in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(InputError, match=r"none/page\.html cannot be written"):
        save_page(tmp_path / "none" / "page.html", "one")
