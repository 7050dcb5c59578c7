"""The text form of a benchmark: one table, what it was measured on, and what to be careful about."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_tf.export.benchmark.compare import Comparison, in_words
from mnv3_tf.export.benchmark.devices.other_load import other_load
from mnv3_tf.export.benchmark.runners.operators import sum_by_block
from mnv3_tf.export.benchmark.store import COUNTED, Record, figure, latency
from mnv3_tf.text import counted

if TYPE_CHECKING:
    from rich.table import Table

    from mnv3_tf.export.benchmark.measure import Measurement
    from mnv3_tf.export.benchmark.result import Result

# Blocks that a line names.
_BLOCKS_SAID = 6
_WORDS = ("file", "cores", "delegate")


def benchmark_table(rows: Sequence[Record], compared: Sequence[Comparison]) -> "Table":
    """A rich table with a line for each row, without the columns in which none says anything; `compared` in the same order."""
    from rich import box
    from rich.table import Table

    about = next((name for name, value in map(figure, rows) if value is not None), "")
    ratio = f"{COUNTED[about]} / baseline" if about in COUNTED else "time / baseline (95%)"
    lines = [{"file": label, "threads": str(row["threads"]), "cores": row["cores"], **_cells(row), ratio: in_words(entry)}
             for label, row, entry in zip(short_names([row["file"] for row in rows]), rows, compared, strict=True)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [heading for heading in lines[0] if any(line[heading] not in ("", "all") for line in lines)]
    for heading in shown:
        table.add_column(heading, justify="left" if heading in (*_WORDS, ratio) else "right", no_wrap=heading == ratio,
                         overflow="fold" if heading == "file" else "ellipsis")
    for line in lines:
        table.add_row(*(line[heading] for heading in shown))
    return table


def _cells(row: Record) -> dict[str, str]:
    partitions = f", {counted(row['partitions'], 'partition')}" if row["partitions"] else ""
    mean_only = row["median_ms"] is None and row["mean_ms"] is not None
    median = "failed" if row["failure"] else ms(latency(row)) + (" (mean)" if mean_only else "")
    peak = f"{row['peak_memory_mb']:.1f}" if row["peak_memory_mb"] else ""
    return {**counts(row), "median ms": median, "p90 ms": ms(row["p90_ms"]),
            "p99 ms": ms(row["p99_ms"]), "init ms": ms(row["init_ms"]),
            "peak MB": peak, "size MB": f"{row['size_bytes'] / 1e6:.2f}", "delegate": f"{row['delegate'] or ''}{partitions}"}


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits or more; nothing for None."""
    return "" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def counts(row: Record) -> dict[str, str]:
    """What of a row was counted: column -> text, which is "" where it was not."""
    arena = row.get("arena_bytes")
    return {"million instructions": millions(row.get("instructions")),
            "million cycles (Vela's estimate)": millions(row.get("estimated_cycles")),
            "arena kB": "" if arena is None else f"{arena / 1000:.1f}"}


def millions(count: int | None) -> str:
    """A count in millions; nothing for None."""
    return "" if count is None else f"{count / 1e6:.3f}"


def short_names(paths: Sequence[str]) -> list[str]:
    """File names alone where these tell the files apart, whole paths otherwise."""
    distinct = set(paths)
    if len({Path(path).name for path in distinct}) == len(distinct):
        return [Path(path).name for path in paths]
    return list(paths)


def result_lines(result: "Result") -> list[str]:
    """What was measured on what, and where the time went."""
    if result.measurement is None:
        return [*result.notes, *_profile_lines(result.rows)]
    where = _host_lines(result.environment) if result.environment else _device_lines(result, result.measurement)
    return [*where, *_profile_lines(result.rows)]


def _host_lines(machine: dict[str, Any]) -> list[str]:
    """What the numbers were measured on, and what they can and cannot say about a phone."""
    dots = {True: ", with integer dot products", False: ", without integer dot products"}.get(machine["integer_dot_products"], "")
    lines = [f"Measured on this machine: {machine['cpu']} ({machine['architecture']}{dots}), {machine['cores_usable']} of "
             f"{machine['cores']} cores usable, governor {machine['governor']}, {machine['runtime']}. "
             f"{machine['settings']['rounds']} interleaved rounds; each run timed alone, without copying input and result."]
    if machine["architecture"] in ("aarch64", "arm64"):
        lines.append("An ARM host predicts which file is faster on an ARM phone better than x86 does, but a phone has "
                     "other cores, caches and heat: measure on the phone for milliseconds.")
    else:
        lines.append("On a phone, the partitions and the operators outside of the delegate are the same. Milliseconds and "
                     "ratios are not: TFLite's int8 HARD_SWISH has vector code on ARM only, and on x86 int8 convolutions are "
                     "faster than float32 ones only with integer dot products. Measure on the phone.")
    return lines


def _device_lines(result: "Result", measured: "Measurement") -> list[str]:
    first = result.rows[0]
    waited = f", and {measured.waited:.0f} s of cooling down" if measured.waited >= 1 else ""
    lines = [f"{result.identity.name}, {result.identity.soc or result.identity.architecture}: {first['runner']} "
             f"({first['runner_version']}), {measured.rounds} interleaved rounds, {measured.seconds:.0f} s of which "
             f"{measured.overhead:.0%} were not measuring{waited}.",
             f"Before: {measured.states[0].state.sentence()}. After: {measured.states[-1].state.sentence()}."]
    load = other_load(measured.states[0].state.processes, measured.states[-1].state.processes)
    lines += [f"Other processes took {load.sentence()} during the measurement."] if load else []
    return [*lines, "A program started from a shell is not an app: an app may be scheduled differently, above all on a GPU."]


def _profile_lines(rows: Sequence[Record]) -> list[str]:
    """A line for each row whose operators were timed or counted: its largest blocks, and what all of them add up to."""
    lines = []
    for row in rows:
        profile = row.get("profile")
        if not profile or profile["problem"]:
            continue
        blocks = sum_by_block(row["ops"])
        total = sum(blocks.values()) or 1.0
        largest = sorted(blocks.items(), key=lambda item: -item[1])[:_BLOCKS_SAID]
        said = ", ".join(f"{block} {share / total:.0%}" for block, share in largest)
        lines.append(f"{Path(row['file']).name}, threads {row['threads']}: {said}. The operators add up to {_sum(profile)}.")
    return lines


def _sum(profile: dict[str, Any]) -> str:
    if "sum_instructions" in profile:
        return f"{millions(profile['sum_instructions'])} million instructions, {profile['of_all']:.1%} of the inference"
    return f"{ms(profile['sum_ms'])} ms, {profile['of_median']:.0%} of the median"


def warning_lines(rows: Sequence[Record]) -> list[str]:
    """What to be careful about, a line each; what is so with any number of threads is said once for a file."""
    lines = []
    for label, row in zip(short_names([row["file"] for row in rows]), rows, strict=True):
        same = [other for other in rows if other["file"] == row["file"]]
        for text in (*row["flags"], *row["warnings"]):
            always = len(same) > 1 and all(text in (*other["flags"], *other["warnings"]) for other in same)
            lines.append(f"{label}: {text}." if always else f"{label}, threads {row['threads']}: {text}.")
    return list(dict.fromkeys(lines))
