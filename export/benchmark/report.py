"""Results for people: a Markdown table, a CSV file, and a page that opens from disk."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.runners.operators import sum_by_block
from mnv3_tf.export.benchmark.store import COUNTED, Record, figure, latency, targets
from mnv3_tf.export.benchmark.table import counts, millions, ms
from mnv3_tf.export.drawing import BLUE, GREY, INK, ORANGE, as_svg, explain, new_figure, render_page
from mnv3_tf.files import write_text

_COLUMNS = ("file", "target", "device", "runner", "threads", "cores", "delegate", "partitions", "runs", "median_ms", "mean_ms",
            "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "spread", "drift", "init_ms", "first_ms", "peak_memory_mb",
            *COUNTED, "size_bytes", "accuracy", "file_sha256", "runner_sha256", "build_fingerprint", "written", "flags",
            "failure")
_COLOURS = (BLUE, ORANGE, "#16a34a", "#9333ea", "#dc2626", "#0891b2")
_FIGURES = ("median_ms", *COUNTED)
# What of a row's median no operator took.
_OUTSIDE = "runtime"
# Rows whose distribution is drawn.
_DRAWN = 40


def write_results_report(records: Sequence[Record], folder: str | Path, title: str,
                         accuracy: Mapping[str, float] | None = None) -> Path:
    """Writes report.md, report.csv and index.html into a folder, replacing those that are there.

    Args:
        records: the results.
        folder: made where it is missing.
        title: of page and table.
        accuracy: top-1 in 0..1 by file name.

    Returns:
        The page.
    """
    folder = Path(folder)
    rows = [{**record, "accuracy": (accuracy or {}).get(Path(record["file"]).name, record.get("accuracy"))} for record in records]
    write_text(folder / "report.md", _markdown(rows, title))
    write_text(folder / "report.csv", _csv(rows))
    page = folder / "index.html"
    write_text(page, render_page(
        "mnv3_tf.export.benchmark", "results.html.j2", title=title, rows=rows, name=lambda row: Path(row["file"]).name, ms=ms,
        millions=millions, columns=_columns(rows), counts=counts, latency=latency,
        distribution=_distribution(rows), temperatures=_temperatures(rows),
        trade_offs=[_trade_off(rows, about) for about in _FIGURES],
        operators=[_operators(rows, about) for about in _FIGURES], profiled=[row for row in rows if row.get("ops")],
        devices=list({row["target"]: row for row in rows}.values())))
    return page


def accuracy_by_file(pairs: Sequence[str]) -> dict[str, float]:
    """Reads NAME=TOP1 pairs.

    Raises:
        InputError: one of them is malformed.
    """
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not name or not 0 <= number <= 1:
            raise InputError(f"--accuracy {pair!r}: give FILE=TOP1 with the accuracy in 0..1, such as a.tflite=0.8896.")
        found[Path(name).name] = number
    return found


def _markdown(rows: Sequence[Record], title: str) -> str:
    counted = _columns(rows)
    headings = ("file", "device", "threads", "cores", "median ms", "p90 ms", "p99 ms", *counted, "delegate", "top-1")
    lines = [f"# {title}", "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for row in rows:
        cells = (Path(row["file"]).name, row["device"], row["threads"], row["cores"],
                 "failed" if row["failure"] else ms(latency(row)), ms(row["p90_ms"]), ms(row["p99_ms"]),
                 *(counts(row)[column] for column in counted), row["delegate"] or "",
                 "" if row["accuracy"] is None else f"{row['accuracy']:.4f}")
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    notes = [f"- {Path(row['file']).name} on {row['device']}: {text}" for row in rows
             for text in (*row["flags"], *([row["failure"]] if row["failure"] else []))]
    return "\n".join([*lines, "", *dict.fromkeys(notes), ""])


def _csv(rows: Sequence[Record]) -> str:
    store = io.StringIO()
    writer = csv.DictWriter(store, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "flags": "; ".join(row["flags"])} for row in rows)
    return store.getvalue()


def _label(row: Record) -> str:
    cores = "" if row["cores"] == "all" else f", {row['cores']}"
    return f"{Path(row['file']).stem}, {row['threads']}t{cores} @ {row['target'].split(':')[0]}"


def _colour(row: Record, rows: Sequence[Record]) -> str:
    return _COLOURS[targets(rows).index(row["target"]) % len(_COLOURS)]


def _columns(rows: Sequence[Record]) -> list[str]:
    """Columns of what was counted in any row."""
    return list(dict.fromkeys(column for row in rows for column, text in counts(row).items() if text))


def _distribution(rows: Sequence[Record]) -> str:
    """A box for each row: quartiles, and the 5th to the 95th percentile."""
    drawn = [row for row in rows if row["samples_ms"]][:_DRAWN]
    if not drawn:
        return ""
    figure, axes = new_figure(9, 0.6 + 0.34 * len(drawn))
    boxes = axes.boxplot([[time for part in row["samples_ms"] for time in part] for row in drawn], orientation="horizontal",
                         whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6)
    for index, box in enumerate(boxes["boxes"]):
        box.set(facecolor=_colour(drawn[index], rows), alpha=0.5, edgecolor=INK)
    for part in ("whiskers", "caps", "medians"):
        for line in boxes[part]:
            line.set_color(INK)
    axes.set_yticks(range(1, len(drawn) + 1), [_label(row) for row in drawn])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    explain(axes, "milliseconds (box: quartiles; whiskers: 5th to 95th percentile)")
    return as_svg(figure, "Distribution of the latency by row")


def _trade_off(rows: Sequence[Record], about: str) -> str:
    """Latency or another figure against accuracy, with the line of rows that no other beats in both, by target."""
    known = [row for row in rows if row["accuracy"] is not None and figure(row)[0] == about and figure(row)[1] is not None]
    if not known:
        return ""
    drawing, axes = new_figure(9, 3.6)
    for target in targets(known):
        points = sorted(((figure(row)[1] or 0.0, float(row["accuracy"]), row) for row in known if row["target"] == target),
                        key=lambda point: point[:2])
        colour = _colour(points[0][2], rows)
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o", color=colour, label=points[0][2]["device"])
        best: list[tuple[float, float]] = []
        for x, y, _ in points:
            if not best or y > best[-1][1]:
                best.append((x, y))
        axes.step([x for x, _ in best], [y for _, y in best], where="post", color=colour, linewidth=1, linestyle="--")
        for x, y, row in points:
            axes.annotate(Path(row["file"]).stem, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7, color=INK)
    axes.set_xlim(left=0)
    explain(axes, COUNTED.get(about, "median milliseconds"), "top-1")
    return as_svg(drawing, f"{_title(about)} against accuracy")


def _title(about: str) -> str:
    return COUNTED[about].capitalize() if about in COUNTED else "Latency"


def _operators(rows: Sequence[Record], about: str) -> str:
    """Time or instructions by block of the network for each row that was profiled, and what lies outside of the operators."""
    # Rows of earlier versions are not asked for a profile's facts.
    profiled = [row for row in rows if row.get("ops") and not (row.get("profile") or {}).get("problem")
                and figure(row)[0] == about][:_DRAWN]
    if not profiled:
        return ""
    spent = [sum_by_block(row["ops"]) for row in profiled]
    for row, times in zip(profiled, spent, strict=True):
        rest = (figure(row)[1] or 0.0) - sum(times.values())
        if rest > 0:
            times[_OUTSIDE] = rest
    found = dict.fromkeys(block for times in spent for block in times)
    last = ("other", _OUTSIDE)
    blocks = [*(block for block in found if block not in last), *(block for block in last if block in found)]
    drawing, axes = new_figure(9, 3.4)
    width = 0.8 / len(profiled)
    for number, (row, times) in enumerate(zip(profiled, spent, strict=True)):
        axes.bar([place + number * width for place in range(len(blocks))], [times.get(block, 0.0) for block in blocks], width,
                 label=_label(row), color=_COLOURS[number % len(_COLOURS)])
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(blocks))], blocks, rotation=60, ha="right", fontsize=7)
    explain(axes, "", COUNTED.get(about, "milliseconds"))
    return as_svg(drawing, f"{_title(about)} by block" if about in COUNTED else "Time by block")


def _temperatures(rows: Sequence[Record]) -> str:
    """CPU temperature over time, a line for each target."""
    lines: dict[str, tuple[str, list[tuple[float, float]]]] = {}
    for row in rows:
        points = [(point["seconds"], point["cpu_temperature_c"]) for point in row.get("states") or []
                  if point.get("cpu_temperature_c") is not None]
        if len(points) > 1:
            lines[row["target"]] = row["device"], points
    if not lines:
        return ""
    figure, axes = new_figure(9, 2.6)
    for number, (device, points) in enumerate(lines.values()):
        axes.plot(*zip(*points, strict=True), ".-", color=_COLOURS[number % len(_COLOURS)], label=device)
    axes.grid(axis="x", color=GREY, alpha=0.2, linewidth=0.6)
    explain(axes, "seconds", "CPU, °C")
    return as_svg(figure, "Temperature over time")
