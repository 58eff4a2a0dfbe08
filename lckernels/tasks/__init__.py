"""Tasks on texts of any length: functions of a model, its tokenizer and texts."""

from lckernels.tasks.classes import Classes, Label
from lckernels.tasks.classify import classify
from lckernels.tasks.late_chunks import LateChunks, late_chunks

__all__ = ["Classes", "Label", "LateChunks", "classify", "late_chunks"]
