"""Tasks on texts of any length: functions of a model, its tokenizer and texts."""

from lckernels.tasks.classes import Classes, Label
from lckernels.tasks.classify import classify
from lckernels.tasks.late_chunks import LateChunks, late_chunks
from lckernels.tasks.tag import Entity, Tags, tag

__all__ = ["Classes", "Entity", "Label", "LateChunks", "Tags", "classify", "late_chunks", "tag"]
