"""The page of the command answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lckernels.cli.pages.documents import document, documents_page
from lckernels.cli.pages.elements import escaped, reading_fact
from lckernels.cli.pages.marks import Mark
from lckernels.cli.pages.tables import bar, link, swatch, table
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.answering.answer import Answers

_HEADS = ("rank", "answer", "score", "line", "percent")


def answer_page(question: str, model: str, found: Sequence[tuple[Text, "Answers"]]) -> str:
    """The answers to a question in each text."""
    sections = [_section(str(number), *one) for number, one in enumerate(found)]
    return documents_page(question, model, sections)


def _section(prefix: str, text: Text, found: "Answers") -> str:
    answers = found.answers
    rows = [
        (
            swatch(str(number + 1), number),
            link(prefix, number, one.text),
            f"{bar(one.score)}{one.score:.3f}",
            f"{text.line(one.start):,}",
            f"{text.percent(one.start):.1f} %",
        )
        for number, one in enumerate(answers)
    ]
    marks = [
        Mark(one.start, one.end, str(number + 1), number, f"answer {number + 1}, score {one.score:.3f}")
        for number, one in enumerate(answers)
    ]
    about = [reading_fact(found.coverage, found.num_tokens)]
    if found.no_answer is not None:
        about.append(f"no answer: {escaped(f'{found.no_answer:.3f}')}")
    legend = [(f"answer {number + 1}", number) for number in range(len(answers))]
    scores = table(_HEADS, rows, "answer", prefix, numeric=3)
    return document(prefix, text, about, scores, curve=found.curve, marks=marks, legend=legend)
