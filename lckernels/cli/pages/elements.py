"""Elements of HTML, and a page of them that has its style and script within."""

import base64
import hashlib
import html
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from lckernels.cli.console import printable
from lckernels.cli.reports.places import reading
from lckernels.files import resolve_link, whole_file


def escaped(text: str) -> str:
    """The text for an element or an attribute; control characters as in `printable`."""
    return html.escape(printable(text))


def attributes(values: Mapping[str, object]) -> str:
    """The attributes of a start tag, each behind a space; those with the value None are left out."""
    return "".join(f' {name}="{escaped(str(value))}"' for name, value in values.items() if value is not None)


def element(tag: str, content: str, **values: object) -> str:
    """An element with attributes; `content` is HTML."""
    return f"<{tag}{attributes(values)}>{content}</{tag}>"


def facts(items: list[str]) -> str:
    """A line of short facts, given as HTML."""
    return element("ul", "".join(element("li", item) for item in items), **{"class": "facts"})


def reading_fact(coverage: float, num_tokens: int) -> str:
    """How much of a text was read, as HTML that stands out where it is less than the whole."""
    fact = escaped(reading(coverage, num_tokens))
    return fact if coverage >= 1 else element("span", fact, **{"class": "short"})


def page(title: str, body: str) -> str:
    """A page that a browser shows without a request: its policy allows the style and script in it alone."""
    style, script = (files(__package__).joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
    policy += "base-uri 'none'; form-action 'none'"
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            element("title", escaped(title)),
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            body,
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        )
    )


def save_page(path: Path, content: str) -> None:
    """Writes the page whole or not at all. Raises InputError where it cannot be written."""
    with whole_file(resolve_link(path)) as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")


def _hash(code: str) -> str:
    """The source of a policy that allows this inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
