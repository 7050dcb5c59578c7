"""The text form of a benchmark: one table, what it was measured on, and what to be careful about."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_tf.export.benchmark.host import BenchmarkResult, BenchmarkRow, Comparison
from mnv3_tf.tflite.runtime import NO_DELEGATE

if TYPE_CHECKING:
    from rich.table import Table

#: Drift and spread above which a row is flagged.
DRIFT_LIMIT = 1.10
SPREAD_LIMIT = 0.25


def benchmark_table(rows: Sequence[BenchmarkRow], comparisons: Sequence[Comparison]) -> "Table":
    """A rich table with one line for each row; `comparisons` in the same order."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    for heading in ("threads", "median ms", "p90 ms", "p99 ms", "partitions", "size MB"):
        table.add_column(heading, justify="right")
    table.add_column("time / baseline (95%)", no_wrap=True)
    for label, row, comparison in zip(short_names([row.file for row in rows]), rows, comparisons, strict=True):
        table.add_row(label, str(row.threads), ms(row.median_ms), ms(row.p90_ms), ms(row.p99_ms), str(row.partitions),
                      f"{row.size_bytes / 1e6:.2f}", comparison_text(comparison))
    return table


def ms(value: float) -> str:
    """Milliseconds with three significant digits or more."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def comparison_text(comparison: Comparison) -> str:
    """Such as "0.52 (0.51 to 0.53) faster"."""
    if comparison.verdict == "baseline":
        return "baseline"
    return f"{comparison.ratio:.2f} ({comparison.low:.2f} to {comparison.high:.2f}) {comparison.verdict}"


def short_names(paths: Sequence[str]) -> list[str]:
    """File names alone where these tell the files apart, whole paths otherwise."""
    distinct = set(paths)
    if len({Path(path).name for path in distinct}) == len(distinct):
        return [Path(path).name for path in paths]
    return list(paths)


def machine_lines(result: BenchmarkResult) -> list[str]:
    """What the numbers were measured on, and what they can and cannot say about a phone."""
    machine = result.environment
    settings = machine["settings"]
    dots = {True: ", with integer dot products", False: ", without integer dot products"}.get(machine["integer_dot_products"], "")
    lines = [f"Measured on this machine: {machine['cpu']} ({machine['architecture']}{dots}), {machine['cores_usable']} of "
             f"{machine['cores']} cores usable, governor {machine['governor']}, {machine['runtime']}. "
             f"{settings['rounds']} interleaved rounds; each run timed alone, without copying input and result."]
    if machine["architecture"] in ("aarch64", "arm64"):
        lines.append("An ARM host predicts which file is faster on an ARM phone better than x86 does, but a phone has "
                     "other cores, caches and heat: measure on the phone for milliseconds.")
    else:
        lines.append("On a phone, the partitions and the operators outside of the delegate are the same. Milliseconds and "
                     "ratios are not: TFLite's int8 HARD_SWISH has vector code on ARM only, and on x86 int8 convolutions are "
                     "faster than float32 ones only with integer dot products. Measure on the phone.")
    return lines


def warning_lines(result: BenchmarkResult) -> list[str]:
    """One line for each row's trouble: cut graphs, no delegate, open batch, drift, spread, more threads than cores."""
    lines = []
    labels = short_names([row.file for row in result.rows])
    wanted = result.environment["settings"]["delegate"]
    seen = set()
    for label, row in zip(labels, result.rows, strict=True):
        if row.file not in seen:
            lines += [f"{label}: {text}" for text in _graph_warnings(row, wanted)]
        seen.add(row.file)
        lines += [f"{label}, threads {row.threads}: {text}" for text in _run_warnings(row)]
    return lines


def _graph_warnings(row: BenchmarkRow, wanted: str) -> list[str]:
    lines = []
    outside = ", ".join(f"{count} {name}" for name, count in Counter(row.operators_outside).most_common())
    if wanted == "xnnpack" and row.delegate == NO_DELEGATE:
        lines.append("the XNNPACK delegate took nothing of it; these are times of the runtime's CPU kernels.")
    elif row.delegate != NO_DELEGATE and (row.partitions > 1 or outside):
        cut = "1 partition" if row.partitions == 1 else f"{row.partitions} partitions"
        lines.append(f"the XNNPACK delegate runs it as {cut}"
                     + (f", with {outside} outside of it." if outside else "."))
    if row.dynamic_batch:
        lines.append("its batch size is open; it was run as 1. Delegates refuse open sizes: convert with batch 1.")
    return lines


def _run_warnings(row: BenchmarkRow) -> list[str]:
    lines = []
    if row.threads > row.cores_usable:
        lines.append(f"more threads than the {row.cores_usable} usable cores.")
    if row.drift > DRIFT_LIMIT:
        lines.append(f"the last round's median is {row.drift:.2f} times the first's: the machine got slower during the run "
                     "(heat, or other work).")
    if row.spread > SPREAD_LIMIT:
        lines.append(f"(p90 - p10) / median is {row.spread:.2f}: unsteady (other work on this machine, or too "
                     "many threads for it).")
    return lines
