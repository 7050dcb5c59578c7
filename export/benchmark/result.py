"""Rows of results, from what was measured on a device or on this machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnv3_tf.export.benchmark.devices.identity import DeviceIdentity
from mnv3_tf.export.benchmark.devices.other_load import load_flags, other_load
from mnv3_tf.export.benchmark.devices.state import DeviceState, throttle_flags
from mnv3_tf.export.benchmark.measure import (
    BenchmarkSettings,
    Job,
    JobResult,
    Measurement,
    Program,
    Runner,
    Slice,
    StateAt,
    measure,
)
from mnv3_tf.export.benchmark.statistics import percentile
from mnv3_tf.export.benchmark.store import REQUIRED, SCHEMA, Record, latency
from mnv3_tf.files import plain
from mnv3_tf.progress import Progress
from mnv3_tf.tflite.file import TfliteFile
from mnv3_tf.tflite.runtime import LiteRTModel

#: (p90 - p10) / median above which a row is flagged.
SPREAD_LIMIT = 0.25


@dataclass(frozen=True)
class Result:
    """What a device or this machine gave.

    Attributes:
        rows: as written to results.jsonl, one for each file, number of threads and choice of cores.
        measurement: states, waiting, overhead; None where nothing was timed.
        logs: all that the runner printed, for each row.
        identity: of the device.
        environment: of this machine, see :func:`mnv3_tf.export.benchmark.host.environment`; empty for a device.
        notes: where nothing was timed: what the rows' figures are, in sentences.
    """

    rows: tuple[Record, ...]
    measurement: Measurement | None
    logs: tuple[str, ...]
    identity: DeviceIdentity
    environment: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def measure_rows(jobs: Sequence[Job], facts: Mapping[Path, TfliteFile], runner: Runner, settings: BenchmarkSettings, *,
                 target: str, identity: DeviceIdentity, state: Callable[[], DeviceState], progress: Progress) -> Result:
    """Measures jobs as :func:`mnv3_tf.export.benchmark.measure.measure` does, and makes a row of each.

    Args:
        jobs, runner, settings, state, progress: of the measurement.
        facts: what is in the jobs' files.
        target: what rows call the place: "host", or the device's kind and alias.
        identity: of the device.

    Raises:
        DeviceLost: the device went away.
    """
    measured = measure(jobs, runner, settings, name=identity.name, state=state, progress=progress)
    before, after = measured.states[0].state, measured.states[-1].state
    points, rows = _state_points(measured.states), []
    for result in measured.results:
        row = {**unmeasured_row(result.job, facts[result.job.file], runner, target=target, identity=identity,
                                delegate=settings.delegate, failure=result.failure),
               "settings": plain(settings), "state_before": before.to_dict(), "state_after": after.to_dict(), "states": points}
        rows.append(row if result.failure else {**row, **_measured(result, runner, settings.delegate, before, after)})
    return Result(tuple(rows), measured, tuple("\n".join(result.logs) for result in measured.results), identity)


def unmeasured_row(job: Job, file: TfliteFile, runner: Program, *, target: str, identity: DeviceIdentity, delegate: str,
                   failure: str = "") -> Record:
    """A row that says of which file and where, and holds no figures: those that must be there are null.

    Args:
        job, file: what was to be measured.
        runner: by which program.
        target: what rows call the place.
        identity: of the device.
        delegate: that was asked for.
        failure: why there are no figures, or "".
    """
    return {
        **dict.fromkeys(REQUIRED), "runs": 0, "rounds": 0, "flags": [], "warnings": [], "schema": SCHEMA,
        "written": datetime.now(UTC).isoformat(timespec="seconds"), "file": str(job.file), "file_sha256": file.sha256,
        "size_bytes": file.size_bytes, "target": target, "device": identity.name, "soc": identity.soc,
        "architecture": identity.architecture, "system": identity.system, "build_fingerprint": identity.build_fingerprint,
        "runner": runner.name, "runner_version": runner.version, "runner_sha256": runner.sha256, "threads": job.threads,
        "cores": job.cores, "delegate_asked": delegate, "input_dtype": next((tensor.dtype for tensor in file.inputs), None),
        "output_dtype": next((tensor.dtype for tensor in file.outputs), None),
        "dynamic_batch": any(-1 in tensor.shape_signature for tensor in file.inputs), "failure": failure or None}


def _measured(result: JobResult, runner: Runner, delegate: str, before: DeviceState, after: DeviceState) -> dict[str, Any]:
    """The part of a row that holds what was measured."""
    first, profile, numbers = result.slices[0], result.profile, _numbers(result.slices)
    flags = [*throttle_flags(before, after, numbers["drift"]),
             *load_flags(other_load(before.processes, after.processes), result.job.threads)]
    if numbers["spread"] is not None and numbers["spread"] > SPREAD_LIMIT:
        flags.append(f"unsteady: (p90 - p10) / median is {numbers['spread']:.2f} (other work, or too many threads)")
    flags += profile.flags(latency(numbers)) if profile else []
    delegated = delegated_part(first, result.job, runner, delegate)
    flags += delegated.pop("flags")
    apart = {"peak_memory_mb": result.peak_memory_mb, "ops": profile}
    return {**numbers, "rounds": len(result.slices), "init_ms": first.init_ms, "first_ms": first.first_ms,
            "peak_memory_mb": result.peak_memory_mb,
            "measured_apart": [name for name, value in apart.items() if value is not None],
            **delegated, "flags": flags,
            **(profile.to_fields(latency(numbers)) if profile else {"ops": None, "profile": None}),
            "warnings": [*sorted({line for part in result.slices for line in part.warnings}), *result.problems],
            "samples_ms": [list(part.samples_ms) for part in result.slices] if first.samples_ms else None}


def delegated_part(found: Slice, job: Job, runner: Runner, delegate: str) -> dict[str, Any]:
    """The part of a row that says what the delegate runs: `delegate`, `partitions`, `operators_outside`, and `flags` on it."""
    partitions, outside = found.partitions, found.outside
    if partitions is None and runner.name == "kit":  # the same version of the same runtime cuts a graph in the same way
        model = LiteRTModel(job.file, fix_batch=True, delegate=delegate)
        partitions, outside = model.partitions, model.undelegated_operators
    fallback = delegate == "xnnpack" != found.delegate
    said = "CPU fallback: XNNPACK took nothing of it, so this is what the runtime's CPU kernels take"
    return {"delegate": found.delegate, "partitions": partitions, "flags": [said] if fallback else [],
            "operators_outside": None if outside is None else list(outside)}


def _numbers(slices: Sequence[Slice]) -> dict[str, Any]:
    """Latency in milliseconds over all slices; percentiles only where every run's time is known."""
    times = sorted(time for part in slices for time in part.samples_ms)
    if times:
        median, p10, p90 = (percentile(times, percent) for percent in (50, 10, 90))
        began, ended = (percentile(part.samples_ms, 50) for part in (slices[0], slices[-1]))
        return {"runs": len(times), "median_ms": median, "mean_ms": sum(times) / len(times), "p90_ms": p90,
                "p95_ms": percentile(times, 95), "p99_ms": percentile(times, 99), "min_ms": times[0], "max_ms": times[-1],
                "spread": (p90 - p10) / median if median else 0.0, "drift": ended / began if began else 1.0}
    summaries = [part.summary for part in slices]

    def all_of(name: str) -> list[float]:
        return [float(summary[name]) for summary in summaries if name in summary]

    medians, means = all_of("median_ms"), all_of("mean_ms")
    counts, known = [int(summary.get("runs", 1)) for summary in summaries], len(means) == len(summaries)
    mean = sum(mean * count for mean, count in zip(means, counts, strict=True)) / max(sum(counts), 1) if known else None
    return {"runs": int(sum(all_of("runs"))),
            "median_ms": percentile(medians, 50) if len(medians) == len(summaries) else None, "mean_ms": mean,
            "p90_ms": None, "p95_ms": max(all_of("p95_ms"), default=None), "p99_ms": None,
            "min_ms": min(all_of("min_ms"), default=None), "max_ms": max(all_of("max_ms"), default=None), "spread": None,
            "drift": means[-1] / means[0] if known and means[0] else 1.0}


def _state_points(states: Sequence[StateAt]) -> list[dict[str, Any]]:
    """The device over time; `other_load` is what other processes used since the point before."""
    points = []
    for number, item in enumerate(states):
        load = other_load(states[number - 1].state.processes, item.state.processes) if number else None
        points.append({"seconds": round(item.seconds, 1), "cpu_temperature_c": item.state.cpu_temperature_c,
                       "skin_c": item.state.skin_c, "battery_c": item.state.battery_c,
                       "thermal_status": item.state.thermal_status, "load_average": item.state.load_average,
                       "other_load": load.to_dict() if load else None})
    return points
