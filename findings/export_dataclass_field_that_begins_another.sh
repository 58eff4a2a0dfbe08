#!/usr/bin/env bash
# Versions: torch 2.13.0 (CPU).
# Behaviour: a model whose forward takes a dataclass is exported, but ExportedProgram.module() raises SyntaxError if the
#   dataclass (registered with torch.export.register_dataclass) has a number in a field whose name begins with the name of
#   an earlier field, such as `chunk` and `chunk_origin`. The guard on the longer field is Python text in which every
#   `.chunk` is replaced, the one in `.chunk_origin` too. With the longer name first it works.
# Seen on 2026-11-29:
#   fields (chunk, chunk_origin): SyntaxError
#   fields (chunk_origin, chunk): works
#   fields (chunk, chunk_origin), check_guards=False: works
# Instead: declare the field with the longer name first, or call `.module(check_guards=False)`, which checks no input.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install -q torch==2.13.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import dataclasses

import torch

print("torch", torch.__version__)


@dataclasses.dataclass
class ShortFirst:
    chunk: int = 3
    chunk_origin: int = 1


@dataclasses.dataclass
class LongFirst:
    chunk_origin: int = 1
    chunk: int = 3


class Model(torch.nn.Module):
    def forward(self, x, options):
        return x * options.chunk + options.chunk_origin


def result(options, **guards):
    x = torch.ones(2)
    program = torch.export.export(Model(), (x, options))
    try:
        return program.module(**guards)(x, options).tolist()
    except SyntaxError:
        return "SyntaxError"


for cls in (ShortFirst, LongFirst):
    torch.export.register_dataclass(cls)
found = result(ShortFirst()), result(LongFirst()), result(ShortFirst(), check_guards=False)
print("short name first:", found[0])
print("long name first:", found[1])
print("short name first, check_guards=False:", found[2])
raise SystemExit(found != ("SyntaxError", [4.0, 4.0], [4.0, 4.0]))
PYTHON
