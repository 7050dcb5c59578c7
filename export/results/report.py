"""Results as a report: a Markdown table, a CSV file, and a page that opens from disk without a script or a network."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark_table import ms, short_names
from mnv3_tf.export.results.plots import (
    Course,
    Point,
    accuracy_plot,
    blocks_plot,
    distribution_plot,
    pareto,
    temperature_plot,
)
from mnv3_tf.export.results.record import Record, read_records
from mnv3_tf.export.results.report_text import csv_text, markdown_text
from mnv3_tf.files import write_bytes

# Drawings on the page at most; all numbers are in the files beside it.
_DISTRIBUTIONS, _PROFILES, _COURSES = 24, 8, 8
_SLOWEST_OPS = 10


@dataclass(frozen=True)
class Row:
    """A record with the names that the report gives it.

    Attributes:
        file: as short as tells the files apart.
        label: what tells it from the device's other rows.
        device: name of the device, with the target where two have one name.
    """

    record: Record
    file: str
    label: str
    device: str


@dataclass(frozen=True)
class Device:
    """A device with its rows."""

    name: str
    target: str
    rows: tuple[Row, ...]
    slowest_ms: float


@dataclass(frozen=True)
class Picture:
    """A drawing under a heading, with a remark and perhaps a table."""

    heading: str
    svg: str
    remark: str = ""
    table: list[tuple[str, str, str, str]] = field(default_factory=list)


def write_report(results: Sequence[str | Path], out: str | Path, *, title: str | None = None) -> Path:
    """Writes `index.html`, `report.md` and `report.csv`, replacing those that are there.

    The same results give the same bytes: no time but those of the records is written.

    Args:
        results: result folders, or files of records.
        out: the folder for the report.
        title: of the page; "Benchmark results" when left out.

    Returns:
        The page.

    Raises:
        InputError: nothing was given, or something is no result.
        KitError: the folder cannot be written to.
    """
    if not results:
        raise InputError("no result was given to report on. Give the folder that mnv3 benchmark --out wrote.")
    notes: list[str] = []
    records = [record for path in results for record in read_records(path, notes)]
    rows = named_rows(records)
    title = title or "Benchmark results"
    out = Path(out)
    page = out / "index.html"
    for path, text in ((out / "report.md", markdown_text(rows, title, notes)), (out / "report.csv", csv_text(rows)),
                       (page, render_page(rows, title, notes))):
        write_bytes(path, text.encode("utf-8", "replace"))
    return page


def named_rows(records: Sequence[Record]) -> list[Row]:
    """The records with names, device by device, otherwise in their order."""
    places = list(dict.fromkeys((record.device, record.target) for record in records))
    names = [device for device, _ in places]
    devices = {place: place[0] if names.count(place[0]) == 1 else f"{place[0]}, {place[1]}" for place in places}
    files = dict(zip(records_files(records), short_names(records_files(records)), strict=True))
    rows = []
    for place in places:
        own = [record for record in records if (record.device, record.target) == place]
        rows += [Row(record, files[record.file], label, devices[place])
                 for record, label in zip(own, _labels(own, files), strict=True)]
    return rows


def records_files(records: Iterable[Record]) -> list[str]:
    """The files that occur, in order."""
    return list(dict.fromkeys(record.file for record in records))


def _labels(records: Sequence[Record], files: dict[str, str]) -> list[str]:
    """Names that differ: what rows have in common is added to none, and their number only where nothing else differs."""
    labels = [f"{files[record.file]}, {record.setting}" for record in records]
    more: tuple[Callable[[Record], str], ...] = (lambda r: r.delegate_asked, lambda r: r.runner, lambda r: r.written)
    for fact in more:
        labels = [f"{label}, {fact(record)}" if labels.count(label) > 1 and len({
                      fact(other) for other, same in zip(records, labels, strict=True) if same == label}) > 1 else label
                  for record, label in zip(records, labels, strict=True)]
    return [f"{label} (row {labels[:place + 1].count(label)})" if labels.count(label) > 1 else label
            for place, label in enumerate(labels)]


def render_page(rows: Sequence[Row], title: str, notes: Sequence[str] = ()) -> str:
    """The page as HTML."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(loader=PackageLoader("mnv3_tf.export.results", "."), trim_blocks=True, lstrip_blocks=True,
                              autoescape=select_autoescape(["html", "j2"]))
    devices = _devices(rows)
    written = sorted(row.record.written for row in rows)
    distributions, steadier = _distributions(rows)
    profiles, more_profiles = _profiles(rows)
    return environment.get_template("results.html.j2").render(
        title=title, notes=notes, rows=rows, devices=devices, first=written[0], last=written[-1], ms=ms, mean=_is_mean,
        failed=sum(row.record.failure is not None for row in rows), files=_files(rows), chips=_chips,
        beside=_beside(rows, devices) if len(devices) > 1 else [], accuracy=_accuracy(devices), distributions=distributions,
        steadier=steadier, summaries=sum(row.record.failure is None and not row.record.samples_ms for row in rows),
        profiles=profiles, more_profiles=more_profiles, heat=_heat(devices), remarks=_remarks(rows), measurements=_measurements(rows))


def _devices(rows: Sequence[Row]) -> list[Device]:
    found = []
    for name in dict.fromkeys(row.device for row in rows):
        own = tuple(row for row in rows if row.device == name)
        found.append(Device(name, own[0].record.target, own, max((row.record.latency_ms or 0.0 for row in own), default=0.0)))
    return found


def _is_mean(record: Record) -> bool:
    return record.median_ms is None and record.mean_ms is not None


def _chips(record: Record) -> list[str]:
    """The flags' first words."""
    return list(dict.fromkeys(flag.partition(":")[0].partition(" (")[0][:40] for flag in record.flags))


def _beside(rows: Sequence[Row], devices: Sequence[Device]) -> list[tuple[str, list[Record | None]]]:
    """For each file and setting, the latest row of every device."""
    table: dict[str, dict[str, Record]] = {}
    for row in rows:
        record = row.record
        table.setdefault(f"{row.file}, {record.setting}, {record.delegate_asked}", {})[row.device] = record
    return [(key, [found.get(device.name) for device in devices]) for key, found in table.items()]


def _accuracy(devices: Sequence[Device]) -> list[Picture]:
    pictures = []
    for device in devices:
        points, sources = [], []
        for row in device.rows:
            if row.record.accuracy is not None and row.record.latency_ms is not None:
                points.append(Point(row.label, row.record.latency_ms, row.record.accuracy))
                sources.append(row.record.accuracy_source)
        if points:
            best = "; ".join(f"{point.label} ({ms(point.latency_ms)} ms, {point.accuracy:.1%})" for point in pareto(points))
            on = ", ".join(dict.fromkeys(source for source in sources if source))
            pictures.append(Picture(device.name, accuracy_plot(points, f"Latency against accuracy, {device.name}"),
                                    f"Beaten by none: {best}.{f' Accuracy on {on}.' if on else ''}"))
    return pictures


def _distributions(rows: Sequence[Row]) -> tuple[list[Picture], int]:
    """Drawings of the rows with single runs, of the least steady ones where these are many; and how many were left out."""
    known = [row for row in rows if row.record.samples_ms]
    shown = sorted(known, key=lambda row: -(row.record.spread or 0.0))[:_DISTRIBUTIONS]
    pictures = []
    for row in [row for row in known if row in shown]:
        svg, outside = distribution_plot(row.record.samples_ms or (), f"Runs by round: {row.label} on {row.device}")
        far = f"; {outside} slower {'run' if outside == 1 else 'runs'}, up to {ms(row.record.max_ms or 0.0)} ms, not drawn" \
            if outside else ""
        drift = f", drift {row.record.drift:.2f}" if row.record.drift is not None else ""
        pictures.append(Picture(row.label, svg, f"{row.device}: {row.record.runs} runs{drift}{far}"))
    return pictures, len(known) - len(pictures)


def block_of(name: str) -> str:
    """The block that an operator belongs to: `block_07` of "block_07/depthwise;..." or "block_07_depthwise"."""
    import re

    match = re.search(r"\b(block_\d+|stem|head)(?=[/_])", name)
    return match.group(1) if match else re.split(r"[/;:]", name)[0]


def _profiles(rows: Sequence[Row]) -> tuple[list[Picture], int]:
    known = [row for row in rows if row.record.ops]
    pictures = []
    for row in known[:_PROFILES]:
        ops, blocks = row.record.ops or (), {}
        for op in ops:
            blocks[block_of(op.name)] = blocks.get(block_of(op.name), 0.0) + op.mean_ms
        total = sum(op.mean_ms for op in ops)
        slowest = sorted(ops, key=lambda op: -op.mean_ms)[:_SLOWEST_OPS]
        bars = list(blocks.items())
        if len(bars) > 40:  # no network of ours: the largest, in their order
            least = sorted((time for _, time in bars), reverse=True)[39]
            bars = [bar for bar in bars if bar[1] >= least][:40]
        table = [(op.name, op.kind, ms(op.mean_ms), f"{op.share if op.share is not None else op.mean_ms / (total or 1.0):.1%}")
                 for op in slowest]
        pictures.append(Picture(row.label, blocks_plot(bars, f"Time of each block: {row.label} on {row.device}"),
                                f"{row.device}: {len(ops)} operators, {ms(total)} ms in all.", table))
    return pictures, len(known) - len(pictures)


def _heat(devices: Sequence[Device]) -> list[Picture]:
    pictures = []
    for device in devices:
        courses = {row.record.together: Course(f"measured {row.record.written}", row.record.states) for row in device.rows
                   if any(p.cpu_temperature_c is not None or p.battery_c is not None for p in row.record.states)}
        if courses:
            latest = list(courses.values())[-_COURSES:]
            left = len(courses) - len(latest)
            pictures.append(Picture(device.name, temperature_plot(latest, f"Temperature over time, {device.name}"),
                                    f"The latest {_COURSES} measurements; {left} more are in the records." if left else ""))
    return pictures


def _remarks(rows: Sequence[Row]) -> list[tuple[str, str, list[str]]]:
    """(kind, text, rows) of flags and warnings, each text once."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for kind, texts in (("flag", row.record.flags), ("warning", row.record.warnings)):
            for text in texts:
                found.setdefault((kind, text), []).append(f"{row.label} on {row.device}")
    return [(kind, text, where) for (kind, text), where in sorted(found.items(), key=lambda item: item[0][0])]


def _files(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    return list(dict.fromkeys((row.file, row.record.file_sha256, row.record.size_bytes) for row in rows))


def _measurements(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, facts) of each measurement."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row.record.together} {row.device} {row.record.runner}", []).append(row)
    return [(f"{own[0].device}, {own[0].record.written}", _facts([row.record for row in own])) for own in found.values()]


def _facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    first = records[0]
    program = " ".join(part for part in (first.runner, first.runner_version) if part)
    logs = [record.raw_log for record in records if record.raw_log]
    facts = [("rows", str(len(records))), ("target", first.target), ("system", first.system), ("chip", first.soc),
             ("architecture", first.architecture), ("build", first.build_fingerprint), ("runner", program),
             ("runner SHA-256", first.runner_sha256), ("run", first.run_id),
             ("settings", "; ".join(f"{key}: {_plain(value)}" for key, value in first.settings.items())),
             ("before", state_sentence(first, before=True)), ("after", state_sentence(records[-1], before=False)),
             ("logs", ", ".join(logs[:5]) + (f" and {len(logs) - 5} more" if len(logs) > 5 else ""))]
    return [(name, value) for name, value in facts if value]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no", None: "-"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)


def state_sentence(record: Record, *, before: bool) -> str:
    """A state in words, or "" where nothing is known."""
    state = record.state_before if before else record.state_after
    if state is None:
        return ""
    governors = sorted(set(state.governors.values()))
    parts = [f"battery {state.battery_level:g}%" if state.battery_level is not None else "",
             {True: "charging", False: "not charging", None: ""}[state.charging],
             f"CPU {state.warmest_c:.1f} °C" if state.warmest_c is not None else "",
             f"battery {state.battery_c:.1f} °C" if state.battery_c is not None else "",
             f"thermal status {state.thermal_status}" if state.thermal_status is not None else "",
             f"governor {', '.join(governors)}" if governors else "",
             {True: "screen on", False: "screen off", None: ""}[state.screen_on],
             f"load {state.load_average:g}" if state.load_average is not None else ""]
    return ", ".join(part for part in parts if part)
