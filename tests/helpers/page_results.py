"""Results of tasks, made by hand, for tests of their pages."""

from pathlib import Path
from types import SimpleNamespace

from lckernels.tasks.results import Curve
from lckernels.text_files import Text

HOSTILE = (
    '<script>alert(\'x\')</script> & <b onclick="alert(1)">"bold"</b> </style><img src=x onerror=alert(2)>'
)


def text_of(content, name="book.txt"):
    return Text(Path(name), content, "0" * 64)


def curve(length, values=(0.25, 1.0)):
    return Curve([i * length // len(values) for i in range(len(values))], list(values), "score & <more>")


def span(content, start, end, score=0.5, **more):
    return SimpleNamespace(start=start, end=end, text=content[start:end], score=score, **more)


def tags(content, spans, coverage=1.0):
    entities = [span(content, start, end, label=label) for start, end, label in spans]
    return SimpleNamespace(
        entities=entities, scheme="BIO", coverage=coverage, num_tokens=9, curve=curve(len(content))
    )
