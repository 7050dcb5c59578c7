"""`mnv3 benchmark --target adb`: everything from finding the device to rows of results."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.devices.adb import Adb, AdbDevice
from mnv3_tf.export.benchmark.devices.cores import CORES_SCRIPT, CoreLayout, parse_cores
from mnv3_tf.export.benchmark.devices.identity import DeviceIdentity, identify
from mnv3_tf.export.benchmark.devices.measure import Job, JobResult, Measurement, StateAt, measure
from mnv3_tf.export.benchmark.devices.other_load import load_flags, other_load
from mnv3_tf.export.benchmark.devices.remote import RemoteDevice
from mnv3_tf.export.benchmark.devices.session import DeviceSession, opened
from mnv3_tf.export.benchmark.devices.ssh import SshDevice
from mnv3_tf.export.benchmark.devices.state import STATE_SCRIPT, parse_state, throttle_flags
from mnv3_tf.export.benchmark.host import drift_of
from mnv3_tf.export.benchmark.runners.binaries import System, benchmark_binary
from mnv3_tf.export.benchmark.runners.runner_build import build_runner
from mnv3_tf.export.benchmark.runners.runners import KitRunner, ToolRunner
from mnv3_tf.export.benchmark.statistics import percentile
from mnv3_tf.export.benchmark.store import SCHEMA, latency
from mnv3_tf.export.benchmark.table import SPREAD_LIMIT
from mnv3_tf.progress import Progress
from mnv3_tf.tflite.file import read_tflite
from mnv3_tf.tflite.runtime import LiteRTModel

RunnerName = Literal["kit", "benchmark_model"]
_MEASURED = ("median_ms", "mean_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "spread", "drift", "init_ms", "first_ms",
             "peak_memory_mb", "partitions", "samples_ms", "delegate")


@dataclass(frozen=True)
class DeviceSettings:
    """How a device is measured.

    Attributes:
        threads: numbers of CPU threads.
        cores: choices of cores, see :meth:`mnv3_tf.export.benchmark.devices.cores.CoreLayout.mask`.
        runs, min_seconds: for each row at least, over all rounds.
        warmup: untimed runs before each slice.
        rounds: slices of each row.
        seed: of the random input.
        delegate: "xnnpack", "none", and for benchmark_model "gpu", "nnapi" and "hexagon" too.
        runner: the kit's program, or TFLite's.
        binary: the user's own benchmark_model.
        cool_down: seconds to wait at most for a device that is warmer than at the start.
        fixed_performance: Android's mode of steady clocks during the measurement; always reset.
        profile: every operator is timed too, in runs of their own.
        use_cache: benchmark_model keeps XNNPACK's packed weights in a file.
    """

    threads: tuple[int, ...] = (1,)
    cores: tuple[str, ...] = ("all",)
    runs: int = 50
    min_seconds: float = 10.0
    warmup: int = 10
    rounds: int = 5
    seed: int = 0
    delegate: str = "xnnpack"
    runner: RunnerName = "kit"
    binary: Path | None = None
    cool_down: float = 60.0
    fixed_performance: bool = False
    profile: bool = False
    use_cache: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "binary": str(self.binary) if self.binary else None}


def open_target(target: str, program: str | None = None) -> RemoteDevice:
    """A device by the name that `--target` gives it.

    Args:
        target: "adb", "adb:SERIAL" or "ssh:HOST".
        program: the adb client; None: looked for.

    Raises:
        NoDeviceError: it is not there, or cannot be used; the message says what to do.
        InputError: there is no such kind of target.
    """
    kind, _, name = target.partition(":")
    if kind == "adb":
        adb = Adb(program)
        return AdbDevice(adb, adb.choose(name or None).serial)
    if kind == "ssh" and name:
        return SshDevice(name)
    raise InputError(f"{target!r}: is not a target. Give host, adb, adb:SERIAL, ssh:HOST or all.")


def benchmark_device(device: RemoteDevice, files: Sequence[Path], settings: DeviceSettings,
                     progress: Progress) -> "DeviceResult":
    """Measures files on a device, and leaves nothing there.

    Raises:
        InputError: a file or a choice of cores that cannot be used.
        KitError: the device cannot be used, or went away.
    """
    facts = {file: read_tflite(file) for file in files}
    if settings.fixed_performance and device.kind != "adb":
        raise InputError("--fixed-performance is Android's; a board's governor is set by its administrator.")
    identity = identify(device)
    jobs = _jobs(files, settings, parse_cores(device.check(CORES_SCRIPT)))
    with opened(device, progress.say) as session:
        if settings.fixed_performance:
            session.undo_at_end("cmd power set-fixed-performance-mode-enabled false")
            device.check("cmd power set-fixed-performance-mode-enabled true")
        runner = _runner(session, identity.architecture, settings, progress)
        progress.say(f"{identity.name}: copying the runner and {len(files)} file{'s' * (len(files) != 1)}")
        runner.install()
        for file in files:
            runner.model(file)
        measured = measure(jobs, runner, runs=settings.runs, seconds=settings.min_seconds, warmup=settings.warmup,
                           rounds=settings.rounds, cool_down=settings.cool_down, profile=settings.profile,
                           state=lambda: parse_state(device.check(STATE_SCRIPT)), name=identity.name, progress=progress)
    written = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [_row(result, measured, facts[result.job.file], device, identity, runner, settings, written)
            for result in measured.results]
    return DeviceResult(tuple(rows), tuple(tuple(s.samples_ms for s in result.slices) for result in measured.results), measured,
                        tuple("\n".join(result.logs) for result in measured.results), identity)


@dataclass(frozen=True)
class DeviceResult:
    """What a device gave.

    Attributes:
        rows: as written to results.jsonl, one for each file, number of threads and choice of cores.
        samples: [row][round][run] in milliseconds; empty rounds where the runner gives summaries.
        measurement: states, waiting, overhead.
        logs: all that the runner printed, for each row.
        identity: of the device.
    """

    rows: tuple[dict[str, Any], ...]
    samples: tuple[tuple[tuple[float, ...], ...], ...]
    measurement: Measurement
    logs: tuple[str, ...]
    identity: DeviceIdentity


def _jobs(files: Sequence[Path], settings: DeviceSettings, layout: CoreLayout) -> list[Job]:
    masks = [layout.mask(choice) for choice in settings.cores]
    return [Job(file, threads, mask, text) for file in files for threads in settings.threads for mask, text in masks]


def _runner(session: DeviceSession, architecture: str, settings: DeviceSettings, progress: Progress) -> KitRunner | ToolRunner:
    if settings.runner == "benchmark_model":
        system: System = "android" if session.device.kind == "adb" else "linux"
        binary = benchmark_binary(system, architecture, given=settings.binary, progress=progress)
        return ToolRunner(session, binary, delegate=settings.delegate, use_cache=settings.use_cache)
    if settings.use_cache:
        raise InputError("--use-cache is benchmark_model's; take --runner benchmark_model for it.")
    if settings.delegate not in ("xnnpack", "none"):
        raise InputError(f"the kit's runner has no {settings.delegate} delegate; take --runner benchmark_model for it.")
    return KitRunner(session, build_runner(architecture, progress), delegate=settings.delegate, seed=settings.seed)


def _row(result: JobResult, measured: Measurement, facts: Any, device: RemoteDevice, identity: DeviceIdentity,
         runner: KitRunner | ToolRunner, settings: DeviceSettings, written: str) -> dict[str, Any]:
    before, after = measured.states[0].state, measured.states[-1].state
    row: dict[str, Any] = {
        "schema": SCHEMA, "written": written, "file": str(result.job.file), "file_sha256": facts.sha256,
        "size_bytes": facts.size_bytes, "target": f"{device.kind}:{identity.alias}", "device": identity.name, "soc": identity.soc,
        "architecture": identity.architecture, "system": identity.system, "build_fingerprint": identity.build_fingerprint,
        "runner": runner.name, "runner_version": runner.version, "runner_sha256": runner.sha256, "threads": result.job.threads,
        "cores": result.job.cores, "delegate_asked": settings.delegate, "settings": settings.to_dict(),
        "state_before": before.to_dict(), "state_after": after.to_dict(),
        "states": _state_points(measured.states), "failure": result.failure or None}
    if result.failure or not result.slices:
        return {**row, **dict.fromkeys(_MEASURED), "runs": 0, "rounds": 0, "flags": [], "warnings": []}
    first = result.slices[0]
    numbers = _numbers(result)
    flags = [*throttle_flags(before, after, numbers["drift"]),
             *load_flags(other_load(before.processes, after.processes), result.job.threads)]
    if numbers["spread"] is not None and numbers["spread"] > SPREAD_LIMIT:
        flags.append(f"unsteady: (p90 - p10) / median is {numbers['spread']:.2f}")
    profile = result.apart.profile
    flags += profile.flags(latency(numbers)) if profile else []
    if settings.delegate == "xnnpack" and first.delegate != "xnnpack":
        flags.append("CPU fallback: XNNPACK took nothing of it")
    partitions = first.partitions
    if partitions is None and runner.name == "kit":  # the same version of the same runtime cuts a graph in the same way
        partitions = LiteRTModel(result.job.file, fix_batch=True, delegate=settings.delegate).partitions
    return {**row, **numbers, "rounds": len(result.slices), "init_ms": first.init_ms, "first_ms": first.first_ms,
            "peak_memory_mb": result.apart.peak_memory_mb,
            "measured_apart": ["peak_memory_mb", *(["ops"] if profile else [])],
            "delegate": first.delegate, "partitions": partitions, "flags": flags,
            **(profile.to_fields(latency(numbers)) if profile else {"ops": None, "profile": None}),
            "warnings": [*sorted({line for s in result.slices for line in s.warnings}), *result.apart.problems],
            "samples_ms": [list(s.samples_ms) for s in result.slices] if first.samples_ms else None}


def _numbers(result: JobResult) -> dict[str, Any]:
    """Latency in milliseconds over all slices; percentiles only where every run's time is known."""
    times = sorted(time for found in result.slices for time in found.samples_ms)
    if times:
        median = percentile(times, 50)
        return {"runs": len(times), "median_ms": median, "mean_ms": sum(times) / len(times), "p90_ms": percentile(times, 90),
                "p95_ms": percentile(times, 95), "p99_ms": percentile(times, 99), "min_ms": times[0], "max_ms": times[-1],
                "spread": (percentile(times, 90) - percentile(times, 10)) / median if median else 0.0,
                "drift": drift_of([found.samples_ms for found in result.slices])}
    summaries = [found.summary for found in result.slices]
    runs = sum(int(s.get("runs", 0)) for s in summaries)
    mean = sum(float(s["mean_ms"]) * int(s.get("runs", 1)) for s in summaries) / max(runs, 1)
    medians = [float(s["median_ms"]) for s in summaries if "median_ms" in s]
    return {"runs": runs, "median_ms": percentile(sorted(medians), 50) if len(medians) == len(summaries) else None,
            "mean_ms": mean, "p90_ms": None, "p95_ms": _most(summaries, "p95_ms"), "p99_ms": None,
            "min_ms": min((float(s["min_ms"]) for s in summaries if "min_ms" in s), default=None),
            "max_ms": _most(summaries, "max_ms"), "spread": None,
            "drift": float(summaries[-1]["mean_ms"]) / float(summaries[0]["mean_ms"]) if float(summaries[0]["mean_ms"]) else 1.0}


def _most(summaries: Sequence[dict[str, Any]], key: str) -> float | None:
    return max((float(s[key]) for s in summaries if key in s), default=None)


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
