"""The linear layers of MiniLM alone: fp32, bf16 and int8 of several libraries, in turns."""

import copy
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import lckernels
from lckernels.hf.patch.linear import onednn

SHAPES = ((384, 384), (384, 1536), (1536, 384))  # (in_features, out_features)
ROWS = (512, 2048, 4096)
_ROUNDS = 15
BASE = "float32"


def calls(in_features: int, out_features: int, num_rows: int) -> dict[str, Callable[[], Tensor]]:
    """The layer over random rows, by name; those of libraries that are not installed are left out."""
    torch.manual_seed(0)
    layer, x = (
        nn.Linear(in_features, out_features).eval().requires_grad_(False),
        torch.randn(num_rows, in_features),
    )
    half, x_half = copy.deepcopy(layer).bfloat16(), x.bfloat16()
    ours = copy.deepcopy(layer)
    lckernels.quantize(ours)
    found = {BASE: partial(layer, x)}
    for name, module, rows in (("float32, packed", layer, x), ("bfloat16, packed", half, x_half)):
        packed = onednn.pack(module.weight, num_rows)
        found[name] = partial(onednn.product, rows, packed, module.bias, onednn.IDENTITY)
    found |= {"bfloat16": partial(half, x_half), "quantize": partial(ours, x)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
    found["quantize_dynamic, a scale per batch"] = partial(dynamic, x)
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        return found
    theirs = nn.Sequential(copy.deepcopy(layer))
    quantize_(theirs, Int8DynamicActivationInt8WeightConfig(version=2))
    return found | {"torchao": partial(theirs, x)}


@torch.no_grad()
def measure(clock: Callable[[], float]) -> dict[tuple[int, int, int], dict[str, tuple[float, float]]]:
    """By shape and rows: for each way the least milliseconds, and the relative error to fp32."""
    results = {}
    for shape in SHAPES:
        for num_rows in ROWS:
            ways = calls(*shape, num_rows)
            truth = ways[BASE]()
            error = {
                name: ((call().float() - truth).norm() / truth.norm()).item() for name, call in ways.items()
            }
            least = dict.fromkeys(ways, float("inf"))
            for _ in range(_ROUNDS):
                for name, call in ways.items():
                    begin = clock()
                    call()
                    least[name] = min(least[name], 1000 * (clock() - begin))
            results[*shape, num_rows] = {name: (least[name], error[name]) for name in ways}
    return results


def table(results: dict[tuple[int, int, int], dict[str, tuple[float, float]]]) -> str:
    """Times faster than fp32, as a table of Markdown; the last column is the largest error."""
    names = list(next(iter(results.values())))
    head = ["", *(f"{i}x{o}, {n:,} rows" for i, o, n in results), "error"]
    lines = [head, ["---"] * len(head)]
    for name in names:
        ratios = [f"{found[BASE][0] / found[name][0]:.2f}" for found in results.values()]
        lines.append([name, *ratios, f"{max(found[name][1] for found in results.values()):.4f}"])
    lines.append(["ms of float32", *(f"{found[BASE][0]:.2f}" for found in results.values()), ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
