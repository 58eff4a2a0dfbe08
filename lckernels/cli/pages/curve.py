"""A curve along a text as an SVG."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lckernels.cli.pages.elements import attributes, element, escaped

if TYPE_CHECKING:
    from lckernels.tasks.results import Curve

_WIDTH, _HEIGHT, _TICK = 1000, 120, 10


def curve_figure(curve: "Curve", length: int, starts: Sequence[int] = ()) -> str:
    """The curve over a text of `length` characters, with a tick below it at each of `starts`.

    Values that are not finite leave a gap.
    """
    finite = [value for value in curve.values if math.isfinite(value)]
    low, high = (min(0.0, *finite), max(0.0, *finite)) if finite else (0.0, 1.0)
    scale = (_HEIGHT - 2 * _TICK) / ((high - low) or 1.0)
    # A part's value holds from its first character to that of the next one.
    ends = [*curve.positions[1:], length]
    line, points, gap = [], [], True
    for start, end, value in zip(curve.positions, ends, curve.values, strict=True):
        if not math.isfinite(value):
            gap = True
            continue
        left, right = (round(_WIDTH * x / length, 1) for x in (start, end))
        y = round(_TICK + (high - value) * scale, 1)
        line.append(f"{'M' if gap else 'L'}{left} {y}H{right}")
        gap = False
    if len(finite) == 1:
        points = [f"M{line[0][1:].split('H')[0]}h0"]
    ticks = [f"M{round(_WIDTH * start / length, 1)} {_HEIGHT}v{-_TICK}" for start in starts]
    paths = [("line", line), ("points", points), ("ticks", ticks)]
    drawn = "".join(f"<path{attributes({'class': name, 'd': ''.join(d)})}></path>" for name, d in paths if d)
    values = [f"{value:.4g}" if math.isfinite(value) else "none" for value in curve.values]
    svg = element(
        "svg",
        drawn,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        **{
            "aria-label": f"{curve.name} along the text, from {low:.4g} to {high:.4g}",
            "data-x": " ".join(map(str, curve.positions)),
            "data-y": " ".join(values),
            "data-length": length,
        },
    )
    captions = (
        "start of the text",
        f"{escaped(curve.name)}: {low:.4g} to {high:.4g}",
        "<output></output>",
        "end",
    )
    caption = element("figcaption", "".join(element("span", part) for part in captions))
    return element("figure", svg + caption, **{"class": "curve"})
