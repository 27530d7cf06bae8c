"""Draw evidence as a picture for the data scientist: radiograph, overlay, contours, legend.

Owns colours and layout; what a value means belongs to `explanation`. The sheet always carries
its two sentences (LEGEND, MARK): a map shows what the model used, not where a lesion lies, and
triage devices do not point at a location (21 CFR 892.2080). It names a picture by the digest of
its views, never by file name or header. Needs matplotlib and scipy of `triage[learning]`.

The colours are two straight lines in OKLab (Ottosson 2020) from one dark grey, with equal steps of
lightness and chroma to either side: equal differences of evidence look equally large, strong
evidence is light on a dark picture, and blue against orange is told apart by all kinds of
colour vision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triage.errors import PermanentError
from triage.learning.explaining.explanation import Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from triage.inference.bundle import Bundle
    from triage.learning.explaining.explanation import Evidence

LEGEND: Final = "Model evidence, not a lesion outline; for the data scientist."
MARK: Final = "NOT FOR CLINICAL USE"
UNITS: Final = {
    Method.ADDITIVE: "contribution of a patch to the logit, above the median patch",
    Method.ATTENTION: "share of the attention on a patch, above an even share",
    Method.GRADIENT: "gradient of the logit times token, above the median patch",
}
Reals = NDArray[np.float64]
Views = NDArray[np.float32]

STEPS: Final = 255  # colours of the map, odd: the middle one is no evidence
DARK, LIGHT = 0.48, 0.78  # OKLab lightness without and with the strongest evidence
CHROMA: Final = 0.12
AGAINST_HUE, FOR_HUE = np.deg2rad(245.0), np.deg2rad(60.0)
SHEET_IN: Final = (11.35, 7.2)
STRIP_IN: Final = 1.75  # added height for the views of a subject
DOTS_PER_INCH: Final = 140
THUMBNAILS: Final = 10
GROUND, INK, FAINT, ALARM = "#111417", "#f1f3f4", "#a3abb2", "#c62828"
FAINTEST: Final = 0.15  # share of the strongest evidence below which the picture shows alone
OPACITY: Final = 0.66
FULL: Final = 0.5  # from which it is as dense as it gets
BLUR: Final = 0.35  # of a patch
CONTOURS: Final = (0.35, 0.6, 0.85)  # shares of the strongest evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One view of the subject with its map."""

    picture: NDArray[np.float32]  # (C, H, W) in 0..1
    values: Reals  # (R, K) per patch, outliers clipped
    clipped: NDArray[np.bool_]  # (R, K)
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Everything that stands on one PNG."""

    title: str
    lines: tuple[str, ...]  # under the title
    unit: str  # of a value, for the colour bar
    main: Panel
    views: tuple[Panel, ...] = ()  # of a subject with more than one, in order
    chosen: int = 0  # of `views`, the one in `main`
    note: str = ""  # at the foot


def colours() -> Reals:
    """(STEPS, 3) sRGB in 0..1, from less evidence (blue) over none (grey) to more (orange)."""
    along = np.linspace(-1.0, 1.0, STEPS)
    strength = np.abs(along)
    hue = np.where(along < 0, AGAINST_HUE, FOR_HUE)
    lab = np.stack(
        [
            DARK + (LIGHT - DARK) * strength,
            CHROMA * strength * np.cos(hue),
            CHROMA * strength * np.sin(hue),
        ],
        axis=-1,
    )
    return srgb_of_oklab(lab)


def srgb_of_oklab(lab: Reals) -> Reals:
    """OKLab (..., 3) to sRGB (..., 3), clipped to 0..1; matrices of Ottosson 2020."""
    cone = lab @ np.array(
        [[1.0, 1.0, 1.0], [0.3963377774, -0.1055613458, -0.0894841775],
         [0.2158037573, -0.0638541728, -1.2914855480]]
    )  # fmt: skip
    linear = cone**3 @ np.array(
        [[4.0767416621, -1.2684380046, -0.0041960863],
         [-3.3077115913, 2.6097574011, -0.7034186147],
         [0.2309699292, -0.3413193965, 1.7076147010]]
    )  # fmt: skip
    linear = np.clip(linear, 0.0, 1.0)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(curved, np.float64)


def smooth(values: Reals, shape: tuple[int, int]) -> Reals:
    """(R, K) patch values on (H, W) pixels: constant in a patch, edges blurred by BLUR.

    No value outside the range of `values` appears, as cubic interpolation would bring.
    """
    from scipy.ndimage import gaussian_filter

    rows = np.minimum(np.arange(shape[0]) * values.shape[0] // shape[0], values.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) * values.shape[1] // shape[1], values.shape[1] - 1)
    blocks = values[np.ix_(rows, columns)]
    blur = (BLUR * shape[0] / values.shape[0], BLUR * shape[1] / values.shape[1])
    return np.asarray(gaussian_filter(blocks, blur, mode="nearest"), np.float64)


def sheet_of(evidence: "Evidence", pictures: Views, *, bundle: "Bundle", name: str = "") -> Sheet:
    """The sheet of one explanation; `pictures` (V, C, H, W) are its views at any size."""
    labels = view_labels(evidence, bundle)
    panels = tuple(
        Panel(picture=picture, values=values, clipped=odd, label=label)
        for picture, values, odd, label in zip(
            pictures, evidence.shown, evidence.outliers, labels, strict=True
        )
    )
    state = "flagged" if evidence.flagged else "not flagged"
    score = (
        f"probability {evidence.probability:.3f}, {state} (from {evidence.operating_point:.3f})"
        if evidence.in_distribution
        else f"no score is given: {evidence.reason}; the map is of the score withheld"
    )
    identity = bundle.identity
    odd = int(evidence.outliers[evidence.view].sum())
    said = [f"{identity.name} {identity.version}, digest {identity.digest[:12]}", name]
    said += [f"{odd} outlying patch{'es' * (odd > 1)} clipped, crossed"] if odd else []
    return Sheet(
        title=f"Model evidence: {evidence.finding}",
        lines=(score, f"{evidence.method} map; {sum_of(evidence)}"),
        unit=UNITS[evidence.method],
        main=panels[evidence.view],
        views=panels if len(panels) > 1 else (),
        chosen=evidence.view,
        note="  ·  ".join(part for part in said if part),
    )


def sum_of(evidence: "Evidence") -> str:
    """How the logit of the view that counts most comes about, in words."""
    view = evidence.view
    logit = float(evidence.logits[view])
    said = f"logit {_sign(logit)}"
    if evidence.constants is not None:
        patches = evidence.values[view].size
        common = float(evidence.common[view]) * patches
        local = float(evidence.values[view].sum()) - common
        said += (
            f" = {_sign(local)} differing between patches, {_sign(common)} alike in all {patches},"
            f" {_sign(float(evidence.constants[view]))} constant"
        )
    if len(evidence.logits) > 1:
        said += f"; weight {evidence.shares[view]:.0%} in the subject's {_sign(evidence.logit)}"
    return said


def _sign(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def view_labels(evidence: "Evidence", bundle: "Bundle") -> list[str]:
    """What each view is and how much it counts."""
    count = len(evidence.values)
    crops = bundle.view_spec.crops
    weighed = bool(((evidence.shares > 0) & (evidence.shares < 1)).any())
    labels = []
    for at in range(count):
        name = f"slice {at + 1}"
        if crops:
            name = "whole" if at == 0 else f"{(at - 1) // crops + 1}-{(at - 1) % crops + 1}"
        worth = f"{evidence.shares[at]:.0%}" if weighed else _sign(float(evidence.logits[at]))
        labels.append(f"{name}: {worth}")
    return labels


def require_drawing() -> None:
    """Raise PermanentError where what draws is not installed."""
    for name in ("matplotlib", "scipy"):
        if find_spec(name) is None:
            raise PermanentError(
                f"a picture needs {name}, which is not installed",
                hint="Install `triage[learning]`.",
            )


def write_png(sheet: Sheet, path: Path) -> None:
    """Draw the sheet; the file appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    strip = STRIP_IN if len(sheet.views) > 1 else 0.0
    figure = Figure(figsize=(SHEET_IN[0], SHEET_IN[1] + strip), facecolor=GROUND)
    FigureCanvasAgg(figure)
    _words(figure, sheet)
    _pictures(figure, sheet)
    if strip:
        _strip(figure, sheet)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(
        partial, format="png", dpi=DOTS_PER_INCH, metadata={"Description": f"{MARK}. {LEGEND}"}
    )
    partial.replace(path)


# --- layout: inches from the left and from the top, so that the strip moves nothing else


def _place(figure: "Figure", left: float, top: float, width: float, height: float) -> Any:
    wide, high = figure.get_size_inches()
    return figure.add_axes(
        (left / wide, 1 - (top + height) / high, width / wide, height / high), facecolor=GROUND
    )


def _text(figure: "Figure", left: float, top: float, text: str, **style: Any) -> None:
    wide, high = figure.get_size_inches()
    options = {"color": INK, "fontsize": 9.5, "va": "top", "parse_math": False, **style}
    figure.text(left / wide, 1 - top / high, text, **options)


def _words(figure: "Figure", sheet: Sheet) -> None:
    wide, high = figure.get_size_inches()
    _text(figure, 0.4, 0.28, sheet.title, fontsize=17, fontweight="bold")
    _text(figure, 0.4, 0.68, "\n".join(sheet.lines), color=FAINT, linespacing=1.5)
    _text(
        figure,
        wide - 0.4,
        0.30,
        MARK,
        ha="right",
        fontsize=11,
        fontweight="bold",
        color="white",
        bbox={"boxstyle": "round,pad=0.45", "facecolor": ALARM, "edgecolor": "none"},
    )
    _text(figure, 0.4, high - 0.62, LEGEND, fontsize=11.5, fontweight="bold")
    _text(figure, 0.4, high - 0.34, sheet.note, color=FAINT, fontsize=8.5)


def _pictures(figure: "Figure", sheet: Sheet) -> None:
    side, top = 4.75, 1.55
    limit = _limit(sheet)
    for left, title in ((0.4, "the picture, as rendered for the model"), (5.3, "its evidence")):
        axes = _place(figure, left, top, side, side)
        _show_picture(axes, sheet.main.picture)
        _text(figure, left, top - 0.22, title, color=FAINT, fontsize=8.5)
        if left > 1:
            _show_map(axes, sheet.main, limit)
    _colour_bar(figure, sheet, limit)


def _colour_bar(figure: "Figure", sheet: Sheet, limit: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    axes = _place(figure, 10.2, 1.95, 0.17, 3.9)
    palette = ListedColormap(colours().tolist())
    scale = ScalarMappable(norm=Normalize(-limit, limit), cmap=palette)
    bar = figure.colorbar(scale, cax=axes)
    bar.outline.set_visible(False)
    axes.tick_params(colors=FAINT, labelsize=8, length=2)
    axes.set_ylabel(sheet.unit, color=FAINT, fontsize=8.5)
    axes.yaxis.set_label_position("right")
    _text(figure, 10.285, 1.66, "more", ha="center", fontsize=9)
    _text(figure, 10.285, 5.94, "less", ha="center", fontsize=9)


def _strip(figure: "Figure", sheet: Sheet) -> None:
    """The subject's views in order; where there are too many, those around the chosen one."""
    limit = _limit(sheet)
    first = max(0, min(sheet.chosen - THUMBNAILS // 2, len(sheet.views) - THUMBNAILS))
    shown = range(first, min(len(sheet.views), first + THUMBNAILS))
    side = 0.94
    _text(figure, 0.4, 6.55, _strip_title(shown, len(sheet.views)), color=FAINT, fontsize=8.5)
    for column, at in enumerate(shown):
        left = 0.4 + column * (side + 0.09)
        axes = _place(figure, left, 6.8, side, side)
        _show_picture(axes, sheet.views[at].picture)
        _show_map(axes, sheet.views[at], limit, lines=False)
        if at == sheet.chosen:
            for spine in axes.spines.values():
                spine.set(visible=True, color=INK, linewidth=2)
        _text(
            figure,
            left + side / 2,
            6.82 + side + 0.06,
            sheet.views[at].label,
            ha="center",
            fontsize=8,
            color=INK if at == sheet.chosen else FAINT,
        )


def _strip_title(shown: range, count: int) -> str:
    if len(shown) == count:
        return f"all {count} views of this subject; the framed one is shown above"
    return f"views {shown[0] + 1} to {shown[-1] + 1} of {count}; the framed one is shown above"


def _limit(sheet: Sheet) -> float:
    panels: Sequence[Panel] = sheet.views or (sheet.main,)
    return max(float(np.abs(panel.values).max()) for panel in panels) or 1.0


# --- pictures


def _show_picture(axes: "Axes", picture: NDArray[np.float32]) -> None:
    height, width = picture.shape[-2:]
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    for spine in axes.spines.values():
        spine.set_visible(False)
    grey = picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1)
    axes.imshow(
        grey, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0), interpolation="bilinear"
    )


def _show_map(axes: "Axes", panel: Panel, limit: float, *, lines: bool = True) -> None:
    """Overlay that is denser where evidence is stronger, contours, and a cross where clipped."""
    height, width = panel.picture.shape[-2:]
    shares = smooth(panel.values, (height, width)) / limit
    table = colours()
    at = (shares + 1) / 2 * (STEPS - 1)
    index = np.clip(np.rint(at), 0, STEPS - 1).astype(np.intp)
    opacity = np.clip((np.abs(shares) - FAINTEST) / (FULL - FAINTEST), 0.0, 1.0) * OPACITY
    layer = np.dstack([table[index], opacity])
    axes.imshow(layer, extent=(0, width, height, 0), interpolation="nearest")
    if lines:
        _contours(axes, shares)
        _crosses(axes, panel)


def _contours(axes: "Axes", shares: Reals) -> None:
    height, width = shares.shape
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    table = colours()
    for sign, colour, style in ((1.0, table[-1], "solid"), (-1.0, table[0], "dashed")):
        levels = [level for level in CONTOURS if level < float((sign * shares).max())]
        if levels:
            axes.contour(
                x,
                y,
                sign * shares,
                levels=levels,
                colors=[tuple(colour)],
                linewidths=[0.8 + 0.5 * CONTOURS.index(level) for level in levels],
                linestyles=style,
            )


def _crosses(axes: "Axes", panel: Panel) -> None:
    rows, columns = np.nonzero(panel.clipped)
    if not rows.size:
        return
    height, width = panel.picture.shape[-2:]
    x = (columns + 0.5) * width / panel.clipped.shape[1]
    y = (rows + 0.5) * height / panel.clipped.shape[0]
    axes.plot(x, y, "x", color=INK, markersize=5, markeredgewidth=1.0)
