"""The goal of lengthened models: token classification against the pipeline of transformers."""

from bench.harness.report.goals import Found, Goal
from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

SUITE, PIPELINE = "lengthen", "pipeline with stride"


def _faster(rows: list[Stored], dtype: str) -> Found:
    """The pipeline's time over ours."""
    of_case = (SUITE, OWN, dtype)
    own = (row for row in rows if (row["suite"], row["provider"], row["dtype"]) == of_case)
    return ((row["ratios"][PIPELINE], row) for row in own)


GOALS = (Goal("token classification, against the pipeline with a stride", (1.1, None), _faster),)
