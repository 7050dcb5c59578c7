"""The drawing of a sensitivity analysis."""

from collections.abc import Sequence
from pathlib import Path

from mnv3_tf.export.drawing import BLUE, ORANGE
from mnv3_tf.files import atomic_path
from mnv3_tf.quantization.sensitivity import Sensitivity


def draw_sensitivity(path: Path, sensitivity: Sensitivity, order: Sequence[str]) -> None:
    """Bars of each block's damage alone and of its gain when left float, as PNG, written atomically.

    Args:
        path: the file.
        sensitivity: what to draw.
        order: the blocks from left to right.
    """
    from matplotlib.figure import Figure

    rows = {row.block: row for row in sensitivity.blocks}
    figure = Figure(figsize=(max(6.0, 0.5 * len(order) + 2), 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    places = list(range(len(order)))
    above.bar(places, [rows[name].alone.divergence for name in order], color=BLUE)
    above.axhline(sensitivity.unquantized.divergence, color="black", linewidth=0.8, linestyle=":", label="no block quantized")
    above.set_ylabel("divergence (nats)")
    above.set_title("this block alone in 8 bits", fontsize=10)
    above.legend(frameon=False, fontsize=8)
    below.bar(places, [rows[name].gain for name in order], color=ORANGE)
    below.axhline(0.0, color="black", linewidth=0.8)
    below.set_ylabel("divergence taken away (nats)")
    below.set_title(f"this block alone left float; all in 8 bits diverge by {sensitivity.quantized.divergence:.3g} nats",
                    fontsize=10)
    below.set_xticks(places, list(order), rotation=60, ha="right", rotation_mode="anchor")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
