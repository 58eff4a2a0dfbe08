"""Pages in a browser: its script and style run under the page's own policy, and it loads nothing."""

from pathlib import Path

import pytest

pytest.importorskip("typer")

from helpers import chromium
from helpers.page_parts import PageParts
from helpers.page_results import HOSTILE, tags, text_of

from lckernels.cli.pages.tag import tag_page


@pytest.fixture(autouse=True)
def _browser():
    chromium.browser()


def rendered(page: str, folder: Path) -> chromium.Rendered:
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    return chromium.render(path, folder)


def test_a_page_has_its_highlights_and_loads_nothing(tmp_path):
    content = f"{HOSTILE}\n北京市 and 👩‍👩‍👧.\n" * 30
    spans = [(5, 40, "PER"), (20, 60, "LOC"), (content.rindex("北"), content.rindex("北") + 3, HOSTILE)]
    found = rendered(tag_page("model", [(text_of(content), tags(content, spans))]), tmp_path)
    assert found.console == [] and found.requests == []
    parts = PageParts(found.dom)
    assert parts.texts == [content]
    assert parts.marks == {("0", n): content[start:end] for n, (start, end, _) in enumerate(spans)}
    assert 'title="next highlight, key n" data-step="1">next' in found.dom  # the script shows the buttons


def test_what_the_policy_forbids_is_on_the_console(tmp_path):
    """The test above can fail: another script and an address make lines on the console."""
    page = tag_page("model", [(text_of("a text"), tags("a text", [(0, 1, "A")]))])
    for addition in ("<script>1</script>", '<img src="http://127.0.0.1:9/a.png">', "<style>p{}</style>"):
        found = rendered(page.replace("</body>", f"{addition}</body>"), tmp_path)
        assert "Content Security Policy" in "".join(found.console), addition
        assert found.requests == []
    without = page.replace('http-equiv="Content-Security-Policy"', "")
    found = rendered(without.replace("</body>", '<img src="http://127.0.0.1:9/a.png"></body>'), tmp_path)
    assert found.requests == ["http://127.0.0.1:9/a.png"]


SCRIPT = """
const seen = [];
const bright = () => [...document.querySelectorAll("mark.on")].map((mark) => mark.textContent).join("|");
document.querySelector("button[data-step='1']").click();
seen.push(bright());
document.dispatchEvent(new KeyboardEvent("keydown", {key: "n"}));
seen.push(bright());
seen.push(String(scrollY > 2000));
const svg = document.querySelector(".curve svg"), box = svg.getBoundingClientRect();
svg.dispatchEvent(new MouseEvent("mousemove", {clientX: box.left + box.width * 0.75, clientY: box.top + 9}));
seen.push(document.querySelector("output").textContent);
svg.dispatchEvent(new MouseEvent("click", {clientX: box.left + 1, clientY: box.top + 9, bubbles: true}));
seen.push(String(scrollY < 2000));
const heights = [...document.querySelectorAll(".block")].map((block) => block.getBoundingClientRect().height);
seen.push(String(heights.every((height) => height > 0)));
document.querySelector("td a").dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
seen.push(document.querySelector("tr.on").id);
document.title = JSON.stringify(seen);
"""


def test_a_megabyte_with_its_script(tmp_path):
    """A text of 1 MB with 3,000 highlights: buttons, keys, the curve and the table lead to the highlights."""
    line = "Anna lives in Berlin, says the note that somebody left on the table by the window.\n"
    content = line * 12_500
    assert len(content) > 1_000_000
    spans = [(5 * len(line), 5 * len(line) + 4, "PER")]
    spans += [(n * 4 * len(line) + 14, n * 4 * len(line) + 20, "LOC") for n in range(20, 3000)]
    found = tags(content, spans)
    page = tag_page("model", [(text_of(content), found)])
    # The script of the test is beside that of the page, which the policy forbids otherwise.
    page = page.replace('http-equiv="Content-Security-Policy"', "")
    shown = rendered(page.replace("</body>", f"<script>{SCRIPT}</script></body>"), tmp_path)
    assert shown.console == [] and shown.requests == []
    parts = PageParts(shown.dom)
    assert len(parts.marks) == len(spans) and sum(map(len, parts.texts)) == len(content)
    title = shown.dom.partition("<title>")[2].partition("</title>")[0]
    assert title == '["Anna","Berlin","true","75.0 % of the text: 1","true","true","r0-0"]'
