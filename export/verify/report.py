"""The verification as one page that opens from disk: no script, no font, no picture from anywhere else."""

import base64
import io
from pathlib import Path
from typing import Any

from mnv3_tf.data.sample_list import PicturePath
from mnv3_tf.data.samples import labels_of
from mnv3_tf.export.drawing import as_svg, render_page
from mnv3_tf.export.verify.flips import flips, mcnemar, reliability
from mnv3_tf.export.verify.layers import decibels
from mnv3_tf.export.verify.plots import convergence_plot, layer_figure, reliability_plot, save_layer_plot
from mnv3_tf.export.verify.result import Verification
from mnv3_tf.export.verify.stages import FLOAT, XNNPACK, printed
from mnv3_tf.files import write_json, write_text
from mnv3_tf.metrics import DENSE_CLASSES, Scores
from mnv3_tf.network.layer_names import display_name
from mnv3_tf.tflite.file import bytes_by_dtype, operator_counts

_THUMBNAIL = 176
# Pictures that the page shows; the JSON has all.
_SHOWN_FLIPS = 200


def write_report(result: Verification, folder: str | Path) -> Path:
    """Writes `index.html`, `verification.json` and `layers.png` into a folder, replacing those that are there.

    Returns:
        The page.
    """
    folder = Path(folder)
    labels = labels_of(result.samples)
    before, after = result.logits[FLOAT], result.logits[XNNPACK]
    changed = flips([sample.path for sample in result.samples], labels, before, after, result.labels)
    test = None if labels is None else mcnemar(labels, before, after)
    facts = [{"file": flip.path, "label": flip.label, "before": flip.before, "after": flip.after, "effect": flip.effect,
              "before_score": flip.before_score, "after_score": flip.after_score} for flip in changed]
    write_json(folder / "verification.json", {**result.to_dict(), "flips": facts, "mcnemar_p": test.p_value if test else None})
    if result.layers.layers:
        save_layer_plot(folder / "layers.png", result.layers)
    scores = {stage.name: stage.scores for stage in result.stages if stage.scores is not None}
    first, last = scores.get(FLOAT), scores.get(XNNPACK)
    page = folder / "index.html"
    write_text(page, render_page(
        "mnv3_tf.export.verify", "report.html.j2", result=result, broken=result.broken_stages(), name=display_name,
        printed=printed, decibels=decibels, here=_here,
        flips=changed[:_SHOWN_FLIPS], total_flips=len(changed),
        lost=sum(flip.effect == "lost" for flip in changed), gained=sum(flip.effect == "gained" for flip in changed),
        pictures={flip.path: _thumbnail(flip.path) for flip in changed[:_SHOWN_FLIPS]}, mcnemar=test,
        classes=_classes(first, last) if first and last else (),
        confusions=((("float Keras", _shades(first)), ("the file", _shades(last)))
                    if first and last and len(first.per_class) <= DENSE_CLASSES else ()),
        reliability_plot=reliability_plot(reliability(labels, before), reliability(labels, after)) if labels is not None else "",
        layer_plot=(as_svg(layer_figure(result.layers), "Signal to quantization noise of every tensor") if result.layers.layers
                    else ""),
        operators=[(name, dtype, count) for (name, dtype), count in operator_counts(result.file).items()],
        constants=bytes_by_dtype(result.file), convergence=_convergence(result.calibration)))
    return page


def _here(path: Path) -> Path:
    """A path from the working folder, where it lies below that."""
    absolute = path.absolute()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else path


def _convergence(calibration: dict[str, Any] | None) -> str:
    steps = (calibration or {}).get("convergence") or []
    if len(steps) < 2:
        return ""
    return convergence_plot([s["pictures"] for s in steps], [s["worst"] for s in steps], [s["median"] for s in steps])


def _classes(first: Scores, last: Scores) -> list[dict[str, Any]]:
    """The recall of each class before and after; of many classes, those that change most."""
    rows: list[dict[str, Any]] = [{"name": own.name, "pictures": own.samples, "before": own.recall, "after": now.recall,
                                   "change": (now.recall or 0.0) - (own.recall or 0.0)}
                                  for own, now in zip(first.per_class, last.per_class, strict=True)]
    return rows if len(rows) <= DENSE_CLASSES else sorted(rows, key=lambda row: -abs(row["change"]))[:DENSE_CLASSES]


def _shades(scores: Scores) -> list[tuple[str, list[tuple[int, float]]]]:
    """(label, [(count, share of the row)]) by row."""
    return [(own.name, [(value, value / own.samples if own.samples else 0.0) for value in row])
            for own, row in zip(scores.per_class, scores.confusion, strict=True)]


def _thumbnail(path: PicturePath) -> str:
    """A small JPEG of a picture as a data URL."""
    from mnv3_tf.data import read_picture

    picture = read_picture(path, draft=(2 * _THUMBNAIL, 2 * _THUMBNAIL))
    picture.thumbnail((_THUMBNAIL * 2, _THUMBNAIL * 2))
    store = io.BytesIO()
    picture.save(store, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(store.getvalue()).decode()
