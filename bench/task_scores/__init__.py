"""Answers and tags by the place of their evidence: truncation, merged outputs, lckernels.tasks."""
