"""The drawings of a verification."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_tf.export.drawing import BLUE, GREY, ORANGE, as_svg, explain, new_figure
from mnv3_tf.export.verify.flips import Reliability
from mnv3_tf.export.verify.layers import LayerTable
from mnv3_tf.files import atomic_path
from mnv3_tf.network.layer_names import display_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layer_figure(table: LayerTable) -> "Figure":
    """Signal to noise of every tensor, in the order of the network."""
    layers = [layer for layer in table.layers if layer.kind != "flatten"]
    figure, axes = new_figure(11, 3.6)
    places = list(range(len(layers)))
    axes.bar(places, [_finite(layer.sqnr_db) for layer in layers], color=BLUE, width=0.75,
             label="against the float model")
    axes.plot(places, [_finite(layer.own_sqnr_db) for layer in layers], ".", color=ORANGE, markersize=4,
              label="of the operation alone")
    blocks: dict[str, int] = {}
    for place, layer in enumerate(layers):
        blocks.setdefault(display_name(layer.name).split("/")[0], place)
    axes.set_xticks(list(blocks.values()), list(blocks), rotation=60, ha="right", rotation_mode="anchor")
    axes.set_xlim(-1, len(layers))
    explain(axes, "", "signal to quantization noise (dB)", loc="upper left", ncols=2, bbox_to_anchor=(0, 1.12))
    return figure


def save_layer_plot(path: Path, table: LayerTable) -> None:
    """:func:`layer_figure` as a picture on white."""
    figure = layer_figure(table)
    figure.patch.set(alpha=1.0, facecolor="white")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def reliability_plot(before: Reliability, after: Reliability) -> str:
    """Calibration curves of the float model and the file as SVG."""
    figure, axes = new_figure(4.6, 3.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    for curve, colour, mark, name in ((before, BLUE, "o-", "float"), (after, ORANGE, "s-", "file")):
        axes.plot([x for x, _, _ in curve.bins], [y for _, y, _ in curve.bins], mark, color=colour, markersize=4,
                  linewidth=1.5, label=f"{name} (error {curve.error:.3f})")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    explain(axes, "probability of the answer", "share of right answers", loc="lower right")
    return as_svg(figure, "Calibration curve")


def convergence_plot(pictures: list[int], worst: list[float], median: list[float]) -> str:
    """How far ranges from fewer pictures are from those of all, as SVG."""
    figure, axes = new_figure(4.6, 3.2)
    axes.plot(pictures, worst, "o-", color=ORANGE, markersize=4, label="worst tensor")
    axes.plot(pictures, median, "s-", color=BLUE, markersize=4, label="median tensor")
    axes.set_xscale("log", base=2)
    axes.set_xticks(pictures, [str(count) for count in pictures])
    axes.minorticks_off()
    axes.set_ylim(0, 1.05)
    explain(axes, "calibration pictures", "share of the full range", loc="lower right")
    return as_svg(figure, "Ranges over the number of calibration pictures")


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 80.0
