"""The page of the command rank."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lckernels.cli.pages.documents import documents_page
from lckernels.cli.pages.elements import element, escaped, reading_fact
from lckernels.cli.pages.marks import text_blocks
from lckernels.cli.pages.tables import bar, table
from lckernels.flops import format_count
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.ranking.rank import Ranked


def rank_page(query: str, model: str, found: Sequence[tuple[Text, "Ranked"]], num_texts: int) -> str:
    """The ranked texts with their scores, the best first; a bar spans the lowest to the highest score."""
    scores = [one.score for _, one in found]
    low = min(scores, default=0.0)
    width = (max(scores, default=0.0) - low) or 1.0
    rows = [
        (
            str(number),
            element("a", escaped(str(text.path)), href=f"#t{number}"),
            f"{bar((one.score - low) / width)}{one.score:.4g}",
            reading_fact(one.coverage, one.num_tokens),
        )
        for number, (text, one) in enumerate(found, start=1)
    ]
    texts = [_section(number, *one) for number, one in enumerate(found, start=1)]
    shown = table(("rank", "text", "score", "read"), rows, "text", numeric=0)
    about = [f"{len(found):,} of {escaped(format_count(num_texts, 'text'))}"]
    return documents_page(query, model, [shown, *texts], about)


def _section(number: int, text: Text, found: "Ranked") -> str:
    title = f"{number}. {text.path}, score {found.score:.4g}"
    content = element("div", text_blocks(text.content), dir="auto", id=f"t{number}", **{"class": "text"})
    return element("details", element("summary", escaped(title)) + content)
