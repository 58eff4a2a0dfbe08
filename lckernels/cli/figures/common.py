"""What the figures of all commands share: file formats, fonts, and writing the file."""

import warnings
from pathlib import Path
from typing import Any

from lckernels.errors import InputError
from lckernels.extras import import_extra
from lckernels.files import check_place, reason

FORMATS = ("png", "svg", "pdf", "jpg")
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "SimHei", "PingFang SC")


def check_figure_path(path: Path) -> None:
    """Raises InputError before any work when the picture cannot be written to `path`."""
    if path.suffix.lower().lstrip(".") not in FORMATS:
        raise InputError(f"the picture {path} must end in one of .{', .'.join(FORMATS)}")
    check_place(path, "picture")


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure of matplotlib. Raises InputError when the file cannot be written."""
    with warnings.catch_warnings():
        # Characters that no font here has are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        try:
            figure.savefig(path)
        except OSError as error:
            raise InputError(f"the picture {path} cannot be written: {reason(error)}") from None


def fonts() -> dict[str, list[str]]:
    """Settings of matplotlib: a font for Chinese behind the usual one where this machine has it."""
    manager = import_extra("matplotlib.font_manager", "cli")
    installed = {font.name for font in manager.fontManager.ttflist}
    return {"font.family": ["DejaVu Sans", *(name for name in _CJK_FONTS if name in installed)]}
