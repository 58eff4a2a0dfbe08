"""The goals of training: a step of a decoder with a window, and the loss of a head."""

from bench.harness.report.goals import Goal
from bench.harness.report.patched_goals import DEFAULT, faster, smaller

SUITE = "training"
STEP, HEAD = "SmolLM2_step", "loss_head"  # ops
TRAINING = "training"  # direction: a forward and its backward
MASK = "sdpa_mask"  # the same window and sink tokens as a mask
SDPA = "sdpa"  # full attention; the loss of the head in pieces, as ours
LOGITS = "cross_entropy"  # of all logits at once
_LONG = {"seqlen": 8192}
_STEP = (SUITE, STEP, TRAINING)
_HEAD = (SUITE, HEAD, TRAINING)

GOALS = (
    Goal("SmolLM2, 8k tokens, W=1024 + 4: a step, against sdpa with the window as a mask", (2.0, 1.5),
         faster(*_STEP, MASK, _LONG)),
    Goal("the same, against full attention", (2.0, 1.5), faster(*_STEP, SDPA, _LONG)),
    Goal("the same, against full attention and transformers' own loss", (2.0, 1.5),
         faster(*_STEP, DEFAULT, _LONG)),
    Goal("peak memory with transformers' own loss / ours", (2.0, 2.0), smaller(*_STEP, DEFAULT, _LONG)),
    Goal("peak memory of full attention with our loss / ours", (2.0, 2.0), smaller(*_STEP, SDPA, _LONG)),
    Goal("the loss of a head, 8k x 49k, against logits and cross entropy", (1 / 1.3, 1 / 1.3),
         faster(*_HEAD, LOGITS, _LONG)),
    Goal("the same: peak memory of logits and cross entropy / ours", (10.0, 10.0),
         smaller(*_HEAD, LOGITS, _LONG)),
)  # fmt: skip
