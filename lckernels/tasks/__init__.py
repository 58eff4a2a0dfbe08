"""Tasks on texts of any length: functions of a model, its tokenizer and texts."""

from lckernels.tasks.late_chunks import LateChunks, late_chunks

__all__ = ["LateChunks", "late_chunks"]
