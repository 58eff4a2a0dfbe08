"""The answers to a question, as tables and as JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text as Line

from lckernels.cli.console import printable, stdout
from lckernels.cli.reports.places import file_json, reading, span_json
from lckernels.cli.reports.rich_tables import print_table
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.answering.answer import Answers


def print_answers(found: Sequence[tuple[Text, "Answers"]], quiet: bool) -> None:
    """Prints a table for each text, then how much of it was read."""
    for text, answers in found:
        stdout.print(Line(printable(str(text.path)), style="bold"))
        rows = [
            (
                str(rank),
                one.text,
                f"{one.score:.3f}",
                f"{text.line(one.start):,}",
                f"{text.percent(one.start):.1f} %",
            )
            for rank, one in enumerate(answers.answers, start=1)
        ]
        if answers.no_answer is not None:
            rows.append(("", "(no answer)", f"{answers.no_answer:.3f}", "", ""))
        print_table(("rank", "answer", "score", "line", "percent"), rows, wide=1)
        if not quiet:
            stdout.print(reading(answers.coverage, answers.num_tokens))
        stdout.print()


def as_json(question: str, model: str, found: Sequence[tuple[Text, "Answers"]]) -> dict[str, Any]:
    """The object that `answer --json` prints, without the page."""
    files = [
        {
            **file_json(text, answers.coverage, answers.num_tokens),
            "no_answer": answers.no_answer,
            "answers": [
                {"rank": rank, **span_json(text, one)} for rank, one in enumerate(answers.answers, start=1)
            ],
        }
        for text, answers in found
    ]
    return {"question": question, "model": model, "files": files}
