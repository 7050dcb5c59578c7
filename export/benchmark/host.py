"""This machine as one of the devices: .tflite files run by LiteRT in this process.

Every job is loaded once and stays loaded, and its warm-up comes before the first round. Each run is timed alone. Only the
invocation is timed: copying the input in and the result out is not. A slice begins with two untimed runs, because the job before
it has emptied the caches.
"""

import contextlib
import importlib.metadata
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.devices.identity import DeviceIdentity
from mnv3_tf.export.benchmark.devices.local import kit_runner_here
from mnv3_tf.export.benchmark.devices.state import DeviceState
from mnv3_tf.export.benchmark.measure import BenchmarkSettings, Job, Slice, SliceFailed
from mnv3_tf.export.benchmark.result import Result, measure_rows
from mnv3_tf.export.benchmark.runners.operators import Profile
from mnv3_tf.export.benchmark.runners.runners import KitRunner
from mnv3_tf.files import plain
from mnv3_tf.machine import cpu_model, has_integer_dot_products, usable_cores
from mnv3_tf.progress import Progress, Silent
from mnv3_tf.text import counted
from mnv3_tf.tflite.file import read_tflite
from mnv3_tf.tflite.runtime import DELEGATES, NO_DELEGATE, LiteRTModel

HOST = "host"
SLICE_WARMUP = 2
NANOSECONDS_PER_MS = 1_000_000


def timed_runs(invoke: Callable[[], None], runs: int, seconds: float,
               clock: Callable[[], int] = time.perf_counter_ns) -> tuple[float, ...]:
    """Milliseconds of each run, after :data:`SLICE_WARMUP` untimed ones.

    Args:
        invoke: runs once.
        runs, seconds: timed runs and timed seconds at least.
        clock: nanoseconds, never going back.
    """
    for _ in range(SLICE_WARMUP):
        invoke()
    times: list[int] = []
    spent = 0
    while len(times) < runs or spent < seconds * 1e9:
        started = clock()
        invoke()
        times.append(clock() - started)
        # A clock that stands still must not keep the loop going.
        spent += max(times[-1], 1)
    return tuple(elapsed / NANOSECONDS_PER_MS for elapsed in times)


class HostRunner:
    """Runs jobs in this process.

    Args:
        settings: warm-up, delegate and seed.
        version: of the runtime.
        kit: what times operators, where they are asked for.
    """

    name, sha256 = "litert-python", None

    def __init__(self, settings: BenchmarkSettings, version: str, kit: KitRunner | None = None):
        self.settings, self.version, self.kit = settings, version, kit
        self._loaded: dict[Job, tuple[LiteRTModel, float]] = {}

    def load(self, job: Job) -> None:
        """Loads a job's file, and runs it until it is warm.

        Raises:
            InputError: the file cannot be used.
            KitError: the runtime cannot load or run it.
        """
        model = LiteRTModel(job.file, threads=job.threads, delegate=self.settings.delegate, fix_batch=True,
                            input_shapes=self.settings.input_shapes)
        model.fill_random(self.settings.seed)
        started = time.perf_counter_ns()
        model.invoke()
        self._loaded[job] = model, (time.perf_counter_ns() - started) / NANOSECONDS_PER_MS
        for _ in range(self.settings.warmup):
            model.invoke()

    def slice(self, job: Job, runs: int, seconds: float, warmup: int) -> Slice:
        if self.settings.delegate not in DELEGATES:
            raise SliceFailed(no_such_delegate(self.settings.delegate))
        model, first_ms = self._loaded[job]
        return Slice(timed_runs(model.invoke, runs, seconds), {}, model.init_ms, first_ms, model.delegate, model.partitions,
                     model.undelegated_operators, tuple(_warnings(model)))

    def memory(self, job: Job) -> tuple[None, str]:
        """This process is not the model's alone, so its memory says nothing."""
        return None, ""

    def profile(self, job: Job, runs: int) -> tuple[Profile, str]:
        assert self.kit is not None
        return self.kit.profile(job, runs)


def no_such_delegate(delegate: str) -> str:
    """Why this machine measures nothing with a delegate that only devices have."""
    return f"--delegate {delegate} is for devices; this machine has {' and '.join(DELEGATES)}"


def _warnings(model: LiteRTModel) -> list[str]:
    """What a reader should know of a graph and how it is run."""
    lines = []
    outside = ", ".join(f"{count} {name}" for name, count in Counter(model.undelegated_operators).most_common())
    if model.delegate != NO_DELEGATE and (model.partitions > 1 or outside):
        lines.append(f"the XNNPACK delegate runs it as {counted(model.partitions, 'partition')}"
                     f"{f', with {outside} outside of it' if outside else ''}")
    if model.given_shapes:
        shapes = " and ".join("x".join(map(str, shape)) for shape in model.given_shapes)
        lines.append(f"it was run with inputs of {shapes}, sizes that the file leaves open")
    elif model.dynamic_batch:
        lines.append("its batch size is open; it was run as 1. Delegates refuse open sizes: convert with batch 1")
    if model.threads > usable_cores():
        lines.append(f"more threads than the {usable_cores()} usable cores")
    return lines


def benchmark_host(files: Sequence[str | Path], settings: BenchmarkSettings, progress: Progress | None = None) -> Result:
    """Measures every file with every number of threads on this machine.

    Args:
        files: .tflite files; one may be given twice, to see what the measurement makes of equal things.
        settings: how; `cores`, `runner` and what else is for devices is left alone.
        progress: shows the slices done; nothing is shown without it.

    Returns:
        The rows; with a delegate that only devices have, they say so and hold no numbers.

    Raises:
        InputError: a file that cannot be used.
        KitError: the runtime cannot load or run a file, or the program that times operators cannot be built.
    """
    if not files:
        raise InputError("no .tflite file was given to measure.")
    progress, settings = progress or Silent(), replace(settings, cores=("all",), cool_down=0.0)
    facts = {Path(file): read_tflite(file) for file in files}
    jobs = [Job(Path(file), count, None, "all") for file in files for count in settings.threads]
    machine = environment()
    identity = DeviceIdentity(machine["cpu"], machine["architecture"], "", machine["system"], None, "")
    loads = settings.delegate in DELEGATES
    with kit_runner_here(settings, progress) if settings.profile and loads else contextlib.nullcontext() as kit:
        runner = HostRunner(settings, machine["runtime"], kit)
        for job in jobs if loads else []:
            runner.load(job)
        result = measure_rows(jobs, facts, runner, settings, target=HOST, identity=identity, state=state_here, progress=progress)
    told = {**plain(settings), "timed": "the invocation alone; copying input and result is not timed"}
    rows = tuple({**row, "settings": told} for row in result.rows)
    return replace(result, rows=rows, environment={**machine, "settings": told})


def host_json(result: Result, compared: Sequence[Any]) -> dict[str, Any]:
    """Plain values for JSON: rows, comparisons, environment and samples_ms[row][round][run].

    Args:
        result: of this machine.
        compared: its rows' :class:`mnv3_tf.export.benchmark.compare.Comparison`.
    """
    rows = [{**{key: value for key, value in row.items() if key not in ("samples_ms", "states")}, "sha256": row["file_sha256"],
             "runtime": row["runner_version"], "machine": row["device"], "cores_usable": result.environment["cores_usable"],
             "governor": result.environment["governor"], "temperature_before_c": row["state_before"]["cpu_temperature_c"],
             "temperature_after_c": row["state_after"]["cpu_temperature_c"]} for row in result.rows]
    return {"rows": rows, "comparisons": [vars(entry) for entry in compared], "environment": result.environment,
            "samples_ms": [row["samples_ms"] for row in result.rows]}


def environment() -> dict[str, Any]:
    """What changes latency here, and no name of the host or its user: CPU, cores, frequency governor, load, and versions of the
    software; "unknown" or None for what cannot be read."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "integer_dot_products": has_integer_dot_products(),
        "cores": os.cpu_count() or 1,
        "cores_usable": usable_cores(),
        "governor": _governor(),
        "load_average": _load_average(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "runtime": f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}",
        "numpy": importlib.metadata.version("numpy"),
    }


def state_here() -> DeviceState:
    """What changes from one moment to the next; of the temperatures that of the warmest thermal zone (most virtual machines have
    none)."""
    lines = [_first_line(str(zone)) for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [int(line) / 1000 for line in lines if line is not None and line.lstrip("-").isdigit()]
    return DeviceState(governors={0: _governor()}, cpu_temperature_c=max(degrees, default=None), load_average=_load_average())


def _governor() -> str:
    return _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown"


def _load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip().splitlines()[0]
    except (OSError, IndexError):
        return None
