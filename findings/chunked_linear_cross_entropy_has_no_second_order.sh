#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU).
# Behaviour: torch.nn.functional.linear_cross_entropy with options=LinearCrossEntropyOptions(...) and reduction "sum" or "mean"
#   computes the gradients in its forward. torch.autograd.grad(loss, x, create_graph=True) returns them without a graph
#   and without an error, so a gradient penalty is a constant: it changes the loss and none of the gradients. Without options
#   the same function has its second order. For the same reason torch.utils.checkpoint around it saves no memory, and a
#   forward whose backward never runs costs as much as both.
# Seen on 2026-12-01 (64 tokens, 128 classes, fp64): a penalty on the gradient of the states changes that of the weight by 3.61
#   without options, as with cross_entropy of linear's result, and by 0.0 with options.
# Instead: no options (or cross_entropy of the logits) where a second order is needed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
states = torch.randn(64, 16, dtype=torch.float64, requires_grad=True)
weight = torch.randn(128, 16, dtype=torch.float64).div(4).requires_grad_()
labels = torch.randint(0, 128, (64,))
options = nn.LinearCrossEntropyOptions(batch_chunk_size=16)
ways = {
    "cross_entropy": lambda: F.cross_entropy(F.linear(states, weight), labels, reduction="sum"),
    "without options": lambda: F.linear_cross_entropy(states, weight, labels, reduction="sum"),
    "with options": lambda: F.linear_cross_entropy(states, weight, labels, reduction="sum", options=options),
}
changes = {}
for name, loss in ways.items():
    (plain,) = torch.autograd.grad(loss(), weight)
    (grad,) = torch.autograd.grad(loss(), states, create_graph=True)
    (penalized,) = torch.autograd.grad(loss() + grad.square().sum(), weight)
    changes[name] = float((penalized - plain).abs().max())
    print(torch.__version__, name, "requires_grad:", grad.requires_grad, "change by the penalty:", changes[name])
same = abs(changes["without options"] - changes["cross_entropy"]) < 1e-9
if not (same and changes["cross_entropy"] > 0.1 and changes["with options"] == 0):
    raise SystemExit("the second order is as expected: this finding is out of date")
PYTHON
