"""The goals of a patched Longformer: its attention, the whole model, their memory."""

from bench.harness.report.goals import Goal
from bench.harness.report.patched_goals import faster, smaller

SUITE = "longformer"
GOALS = (
    Goal(
        "attention of a layer against transformers' own",
        (5.0, None),
        faster(SUITE, "Longformer_attention", "forward"),
    ),
    Goal("whole forward", (1.6, None), faster(SUITE, "Longformer", "forward")),
    Goal("forward and backward", (1.8, None), faster(SUITE, "Longformer", "training")),
    Goal(
        "peak memory of a forward, the model's own / ours",
        (3.0, None),
        smaller(SUITE, "Longformer", "forward"),
    ),
)
