"""Tasks on texts of any length: functions of a model, its tokenizer and texts."""

from lckernels.tasks.answer import Answer, Answers, answer
from lckernels.tasks.classes import Classes, Label
from lckernels.tasks.classify import classify
from lckernels.tasks.late_chunks import LateChunks, late_chunks
from lckernels.tasks.rewrite import rewrite
from lckernels.tasks.rewritten import Part, Rewritten
from lckernels.tasks.tag import Entity, Tags, tag

__all__ = [
    "Answer",
    "Answers",
    "Classes",
    "Entity",
    "Label",
    "LateChunks",
    "Part",
    "Rewritten",
    "Tags",
    "answer",
    "classify",
    "late_chunks",
    "rewrite",
    "tag",
]
