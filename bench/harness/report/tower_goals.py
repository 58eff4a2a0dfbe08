"""The goal of a vision tower that loops over windows: its attention in one packed call."""

from bench.harness.report.goals import Goal
from bench.harness.report.patched_goals import faster

SUITE = "towers"
GOALS = (
    Goal(
        "attention against SDPA's loop over windows", (2.0, None), faster(SUITE, "Tower_attention", "forward")
    ),
)
