"""A result folder: `results.jsonl` with a record in each line, and `logs/` with what the runners printed.

A record is written whole in one step, so a crash costs at most the line that was being written; that one is named when the file
is read. docs/benchmark.md and schema.json describe the fields. A log of benchmark_model that somebody else made is read as a
record too.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.runners.log_lines import split_lines
from mnv3_tf.export.benchmark.runners.logs import failure, parse_log, remarks
from mnv3_tf.export.benchmark.runners.operators import layer_of
from mnv3_tf.files import json_text, read_bytes, write_bytes, write_text, writing
from mnv3_tf.text import counted
from mnv3_tf.tflite.runtime import NO_DELEGATE

SCHEMA = "mnv3-benchmark/1"
RESULTS, LOGS = "results.jsonl", "logs"
# Every record has these; what is not known is null.
REQUIRED = ("schema", "written", "file", "file_sha256", "size_bytes", "target", "device", "architecture", "runner", "threads",
            "cores", "delegate_asked", "delegate", "partitions", "runs", "rounds", "median_ms", "mean_ms", "p90_ms", "p95_ms",
            "p99_ms", "min_ms", "max_ms", "spread", "drift", "init_ms", "first_ms", "peak_memory_mb", "samples_ms", "flags",
            "failure")

Record = dict[str, Any]
#: Fields of rows in which nothing is timed, with the words for what they count; the first that a row has is what it is about.
COUNTED = {"instructions": "instructions", "estimated_cycles": "cycles by Vela's estimate", "arena_bytes": "bytes of arena"}
_IN_LOGS = {"file": re.compile(r"(?:^Graph: \[|^Loaded model |\bModel:\s+)([^\]]+?\.tflite)"),
            "threads": re.compile(r"^(?:Num threads:|#threads used for CPU inference:)\s*\[?(\d{1,4})")}


def append_records(folder: str | Path, records: Sequence[Mapping[str, Any]], logs: Sequence[str] = ()) -> list[Record]:
    """Adds records to a result folder, with their logs.

    Args:
        folder: made where it is missing.
        records: as :data:`REQUIRED` and more.
        logs: of the runners, one for each record or none.

    Returns:
        The records as written: with `raw_log`, the log's place in the folder.

    Raises:
        KitError: the folder cannot be written to.
    """
    folder = Path(folder)
    written = []
    with writing(folder):
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        start = _whole_lines(folder / RESULTS)
        for number, record in enumerate(records):
            full = {**record, "raw_log": None}
            if number < len(logs) and logs[number]:
                name = f"{start + number:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(str(record['file'])).stem)[:60]}.txt"
                write_text(folder / LOGS / name, logs[number])
                full["raw_log"] = f"{LOGS}/{name}"
            written.append(full)
        with open(folder / RESULTS, "ab") as file:
            for full in written:
                file.write(f"{json_text(full, None)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    return written


def _whole_lines(path: Path) -> int:
    """How many there are; a last line that a crash cut off is removed, for a new one would be joined to it."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[:content.rfind(b"\n") + 1]
    if whole != content:
        write_bytes(path, whole)
    return whole.count(b"\n")


def read_records(path: str | Path, notes: list[str] | None = None) -> list[Record]:
    """Reads a result folder, a `results.jsonl`, or a log of benchmark_model (logcat's prefixes do not matter).

    Args:
        path: any of them.
        notes: told of a last line that was cut off, and of what a log does not say.

    Raises:
        InputError: it cannot be read, or a line is not a record; the message names file and line.
    """
    path = Path(path)
    file = path / RESULTS if path.is_dir() else path
    text = read_bytes(file).decode("utf-8", "replace")
    if text.strip() and not text.lstrip().startswith("{"):
        return [_from_log(file, text, [] if notes is None else notes)]
    lines = text.split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # without a line end: the writer was stopped in it
                if notes is not None:
                    notes.append(f"{file}, line {number}: cut off, and left out")
                continue
            raise InputError(f"{file}, line {number}: not valid JSON ({error.msg}). Remove the line.") from error
        records.append(_checked(record, file, number))
    if not records:
        raise InputError(f"{file}: holds no result. mnv3 benchmark --out DIR writes them.")
    return records


def _checked(record: Any, file: Path, number: int) -> Record:
    where = f"{file}, line {number}"
    if not isinstance(record, dict) or not isinstance(record.get("schema"), str):
        raise InputError(f"{where}: is not a benchmark record (it names no schema). Give what mnv3 benchmark --out wrote.")
    if record["schema"] != SCHEMA:
        raise InputError(f"{where}: has the schema {record['schema']!r}, and this version reads {SCHEMA!r}. Use the version that "
                         "wrote it, or a newer one.")
    missing = [name for name in REQUIRED if name not in record]
    if missing:
        raise InputError(f"{where}: lacks {', '.join(missing[:5])}. Measure again.")
    for name in ("median_ms", "mean_ms"):
        if record[name] is not None and not isinstance(record[name], int | float):
            raise InputError(f"{where}: {name} is {record[name]!r}, and a number is expected.")
    return record


def _from_log(path: Path, text: str, notes: list[str]) -> Record:
    """A record of a log; what the log does not say is null, and "?" where a record must say something."""
    log, lines = parse_log(text), [line.text for line in split_lines(text)]
    if log.mean_ms is None and log.median_ms is None:
        raise InputError(f"{path}: is neither what mnv3 benchmark --out wrote nor a log of benchmark_model with a result "
                         f"({failure(log, 0)}).")
    found = {name: next((match.group(1) for match in map(pattern.search, lines) if match), None)
             for name, pattern in _IN_LOGS.items()}
    values = {name: getattr(log, name, None) for name in REQUIRED}
    delegate = NO_DELEGATE if log.delegate_applied == "cpu" else log.delegate
    ops = [asdict(replace(op, name=layer_of(op.name))) for op in log.ops]
    missing = [name for name, value in (*found.items(), ("delegate", delegate), ("median", log.median_ms)) if value is None]
    notes.append(f"{path}: is a log of benchmark_model, which says neither the device nor single runs"
                 f"{', and here no ' + ', '.join(missing) if missing else ''}")
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return {**values, "schema": SCHEMA, "written": written,
            "file": found["file"] or path.name, "target": "log", "device": "?", "architecture": "?", "runner": "benchmark_model",
            "runner_version": "?", "threads": int(found["threads"]) if found["threads"] else "?", "cores": "all",
            "delegate_asked": "?", "delegate": delegate, "rounds": 1, "flags": list(remarks(log, log.asked_runs or 0)),
            "failure": failure(log, 0), "ops": ops or None}


def name_of(record: Record) -> str:
    """A row in words: file, device, threads and cores."""
    cores = "" if record["cores"] == "all" else f", {record['cores']}"
    return f"{Path(record['file']).name} on {record['device']}, {counted(record['threads'], 'thread')}{cores}"


def latency(record: Record) -> float | None:
    """The median, or the mean where the runner gives no median."""
    return record["median_ms"] if record["median_ms"] is not None else record["mean_ms"]


def figure(record: Record) -> tuple[str, float | None]:
    """The field that a row is about, and its value: a count of :data:`COUNTED`, or else its latency."""
    return next(((name, record[name]) for name in COUNTED if record.get(name) is not None), ("median_ms", latency(record)))


def targets(records: Iterable[Record]) -> list[str]:
    """The targets that occur, in order."""
    return list(dict.fromkeys(record["target"] for record in records))
