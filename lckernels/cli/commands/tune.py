"""The command tune."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lckernels.cli.console import printable, show_progress, stdout
from lckernels.errors import InputError
from lckernels.extras import import_extra
from lckernels.files import check_writable, reason, whole_file

if TYPE_CHECKING:
    from lckernels.backends.triton.tune import Tuned

KERNELS = (
    "forward", "backward_kv", "backward_q", "backward_bias", "chunked_forward", "chunked_backward_kv",
    "chunked_backward_q",
)  # fmt: skip
ROOMS = (64, 128, 192, 256)
KINDS = ("half", "narrow", "heavy", "fp32")


def tune(
    kernel: Annotated[
        list[str] | None,
        typer.Option(help=f"Passes: {', '.join(KERNELS)}.", show_default="all", metavar="NAME"),
    ] = None,
    head_dim: Annotated[
        list[int] | None,
        typer.Option(help="Head dims up to 64, 128, 192 or 256.", show_default="all", metavar="SIZE"),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="half: bf16 and fp16; narrow: those with a window of up to 128 keys; heavy: those with "
            "softcap, dropout, a bias or masks by key; fp32.",
            show_default="all",
            metavar="NAME",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and print, save nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Time the Triton kernels' tile sizes on this GPU and save the fastest in the user's cache.

    Later processes use them; by default the sizes are those of a fixed table. A run lasts minutes, since each
    candidate is compiled. Options may be repeated. Results are saved after each pass.
    """
    requested = (
        _checked("--kernel", kernel, KERNELS), _checked("--head-dim", head_dim, ROOMS),
        _checked("--kind", kind, KINDS),
    )  # fmt: skip
    import_extra("triton", "triton")
    import torch

    if not torch.cuda.is_available():
        raise InputError("tune: there is no GPU that torch can use")
    from lckernels.backends.triton import launch, tiles, tune, tuned

    if launch.interpreted():
        raise InputError(
            "tune: TRITON_INTERPRET is set, and times of Triton's interpreter are not those of a GPU"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    chip = tiles.chip_of(device)
    target, keys = tuned.path(chip), tune.keys_of(*requested)
    if not keys:
        raise InputError("tune: there are no tiles for that combination of --kernel, --head-dim and --kind")
    if not dry_run:
        _make_folder(target)
        check_writable(target)
    found = dict(tuned.read(chip))
    for row in _with_bar(tune.tune(keys, device, tune.gpu_seconds), len(keys), show_progress(quiet)):
        stdout.print(printable(row.line))
        if row.failure:
            continue
        found[row.key] = row.after
        if not dry_run:
            with whole_file(target) as partial:
                partial.write_text(tuned.text(found), encoding="utf-8")
    if not dry_run:
        stdout.print(printable(f"tiles: {target}"))


def _checked(option: str, values: list | None, allowed: tuple) -> list:
    """The values of an option, empty for all. Raises InputError for one that is not allowed."""
    for value in values or []:
        if value not in allowed:
            raise InputError(f"{option}: got {value}; allowed are {', '.join(map(str, allowed))}")
    return values or []


def _make_folder(target: Path) -> None:
    """Creates the folder of the file `target`. Raises InputError if it cannot be created."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target.parent} cannot be created: {reason(error)}") from None


def _with_bar(rows: "Iterable[Tuned]", number: int, shown: bool) -> "Iterable[Tuned]":
    """The rows, with a bar on a terminal."""
    if not shown:
        return rows
    return import_extra("tqdm.auto", "hf").tqdm(rows, total=number, desc="tuning", unit="pass")
