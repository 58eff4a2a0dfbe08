"""The layout of the bundled book, by a generator that writes its source: the result is the text itself."""

from pathlib import Path

import pytest
from helpers.tiny_decoder import byte_tokenizer

from lckernels.tasks.rewriting.rewritten import Output
from lckernels.tasks.rewriting.source_rows import SourceRows
from lckernels.tasks.rewriting.translation import Grouping, translate

pytest.importorskip("transformers")

BOOK = Path(__file__).resolve().parents[2] / "bench" / "data" / "jargon-file.txt"


def unchanged(text, **options):
    """The result for a generator that writes the tokens of each row."""
    tokenizer = byte_tokenizer()

    def write(rows, new_tokens):
        assert all(len(row.ids) <= 2002 and new_tokens >= 2 * (len(row.ids) - 2) for row in rows)
        return [
            Output(tokenizer.decode(row.ids, skip_special_tokens=True), len(row.ids), False) for row in rows
        ]

    (found,) = translate(write, SourceRows(tokenizer, "bytes"), [text], Grouping(2000, **options), batch=64)
    return found


@pytest.mark.parametrize("sentences", [1, None])
def test_the_layout_of_a_book_is_kept(sentences):
    text = BOOK.read_text(encoding="utf-8")[:60_000]
    found = unchanged(text, wrapped=False, sentences_per_group=sentences)
    assert found.text == text and found.coverage == 1.0 and len(found.parts) > 500
    joined = unchanged(text, sentences_per_group=sentences)
    assert joined.text.split() == text.split() and joined.text.count("\n") < text.count("\n")
    assert len(joined.parts) < len(found.parts)


def test_groups_are_in_order_and_hold_every_letter():
    text = BOOK.read_text(encoding="utf-8")[:20_000]
    found = unchanged(text)
    ends = [0, *(part.end for part in found.parts)]
    starts = [*(part.start for part in found.parts), len(text)]
    between = [text[end:start] for end, start in zip(ends, starts, strict=True)]
    assert not any(character.isalpha() for gap in between for character in gap)
    assert all(end <= start for end, start in zip(ends, starts, strict=True))


def test_the_layout_of_chinese():
    text = "　　甲，乙。丙！\n\n一、丁？\n  - 戊。\n"  # noqa: RUF001
    assert unchanged(text).text == text


def test_a_limit_below_the_tokens_of_the_first_character():
    found = unchanged("- 😀😀 a b.\n\nc.", limit=1)
    assert (found.text, found.parts, found.num_tokens) == ("- ", [], 0)
    assert 0 < found.coverage < 1
