"""Measures files in one place (this machine, a phone, a board) in interleaved rounds, with its state before, between and after.

Every (file, threads, cores) is a job. In each round every job runs one slice, in an order that rotates from round to round, so a
device that warms up meanwhile is unfair to none. Between rounds the device may cool down, up to a limit. How two jobs compare is
said by :func:`mnv3_tf.export.benchmark.statistics.ratio_with_interval` over paired rounds.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.export.benchmark.devices.state import DeviceState
from mnv3_tf.export.benchmark.runners.operators import Profile
from mnv3_tf.progress import Progress
from mnv3_tf.text import counted

# A CPU that is so much warmer than at the start, in degrees Celsius, is waited for.
_WARMER = 8.0
_POLL_SECONDS = 3.0


@dataclass(frozen=True)
class BenchmarkSettings:
    """How files are measured.

    Attributes:
        threads: numbers of CPU threads.
        cores: choices of a device's cores, see :meth:`mnv3_tf.export.benchmark.devices.cores.CoreLayout.mask`.
        runs, min_seconds: timed runs and timed seconds for each row at least, over all rounds.
        warmup: untimed runs, on a device before each slice.
        rounds: slices of each row; with fewer than four, no verdict is given.
        seed: of the random input.
        delegate: "xnnpack", "none", and for benchmark_model "gpu", "nnapi" and "hexagon" too.
        runner: on a device, the kit's program, or TFLite's.
        binary: the user's own benchmark_model.
        cool_down: seconds to wait at most, in all, for a device that is warmer than at the start.
        fixed_performance: Android's mode of steady clocks during the measurement; always reset.
        profile: every operator is timed too, in runs of their own.
        input_shapes: of inputs with open sizes, on this machine.
        use_cache: benchmark_model keeps XNNPACK's packed weights in a file.

    Raises:
        InputError: a number is too small.
    """

    threads: tuple[int, ...] = (1,)
    cores: tuple[str, ...] = ("all",)
    runs: int = 50
    min_seconds: float = 10.0
    warmup: int = 10
    rounds: int = 5
    seed: int = 0
    delegate: str = "xnnpack"
    runner: Literal["kit", "benchmark_model"] = "kit"
    binary: Path | None = None
    cool_down: float = 60.0
    fixed_performance: bool = False
    profile: bool = False
    use_cache: bool = False
    input_shapes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        for name, number, least in (("runs", self.runs, 1), ("rounds", self.rounds, 1), ("warmup", self.warmup, 0)):
            if number < least:
                raise InputError(f"{name} is {number}, and must be {least} or more.")


@dataclass(frozen=True, eq=False)
class Job:
    """What is measured as one row; two jobs are two, even of the same file.

    Attributes:
        file: a `.tflite` file on this machine.
        threads: CPU threads.
        mask: CPU affinity as a bit mask, None for all cores.
        cores: the same in words.
    """

    file: Path
    threads: int
    mask: int | None
    cores: str


@dataclass(frozen=True)
class Slice:
    """What one start of a runner gave. Times in milliseconds, None where the runner does not say.

    Attributes:
        samples_ms: of each run; empty where the runner gives only a summary.
        summary: runs, and of them median_ms, mean_ms, min_ms, max_ms, p95_ms as far as the runner says.
        init_ms: to load and prepare the file.
        first_ms: the very first run.
        delegate: what really ran: "xnnpack", "gpu", "none (CPU kernels)" and so on.
        partitions: parts of the graph that the delegate runs.
        outside: names of the operators outside of the delegate.
        warnings: what a reader should know of it.
        log: all that the runner printed.
        dot_products: integer dot products of a run, where instructions are counted.
    """

    samples_ms: tuple[float, ...]
    summary: dict[str, Any]
    init_ms: float | None
    first_ms: float | None
    delegate: str
    partitions: int | None = None
    outside: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    log: str = ""
    dot_products: int | None = None


class SliceFailed(KitError):
    """A runner gave no measurement; `log` is what it printed."""

    def __init__(self, reason: str, log: str = ""):
        super().__init__(reason)
        self.log = log


class Program(Protocol):
    """What figures come from."""

    @property
    def name(self) -> str:
        """As rows call it."""

    @property
    def version(self) -> str:
        """Of it, or of the runtime in it."""

    @property
    def sha256(self) -> str | None:
        """Of its bytes, where it is one of its own."""


class Runner(Program, Protocol):
    """What measures files."""

    def slice(self, job: Job, runs: int, seconds: float, warmup: int) -> Slice:
        """Runs a job for at least so many runs and seconds.

        Raises:
            SliceFailed: it gave no measurement.
        """

    def memory(self, job: Job) -> tuple[float | None, str]:
        """The peak memory of a run in MB, and what was printed.

        Raises:
            SliceFailed: it gave no measurement.
        """

    def profile(self, job: Job, runs: int) -> tuple[Profile, str]:
        """The operators' times over at least so many runs, and what was printed.

        Raises:
            SliceFailed: it gave no measurement.
        """


@dataclass
class JobResult:
    """What was measured of a job.

    Attributes:
        job: that was measured.
        slices: of the rounds.
        failure: why there are no more, or "".
        logs: each begins with a line that says what that start was for.
        peak_memory_mb, profile: measured in starts that are not timed, for it disturbs the times; None where it is not known.
        problems: why one of these is not known.
    """

    job: Job
    slices: list[Slice] = field(default_factory=list)
    failure: str = ""
    logs: list[str] = field(default_factory=list)
    peak_memory_mb: float | None = None
    profile: Profile | None = None
    problems: list[str] = field(default_factory=list)

    def keep(self, what: str, log: str) -> None:
        """Keeps what a runner printed, if it did."""
        if log:
            self.logs.append(f"#=== {what}\n{log}")


@dataclass(frozen=True)
class StateAt:
    """A device's state at a moment, in seconds from the start."""

    seconds: float
    state: DeviceState


@dataclass(frozen=True)
class Measurement:
    """Everything that was measured on a device.

    Attributes:
        results: in the order of the jobs.
        states: before, between and after the rounds.
        rounds: that were finished.
        waited: seconds spent on cooling down.
        measuring: seconds in which runners ran their timed part.
        seconds: in all.
    """

    results: tuple[JobResult, ...]
    states: tuple[StateAt, ...]
    rounds: int
    waited: float
    measuring: float
    seconds: float

    @property
    def overhead(self) -> float:
        """Share of the time that went neither into timed runs nor into waiting for the device to cool."""
        busy = self.seconds - self.waited
        return 1.0 - min(1.0, self.measuring / busy) if busy > 0 else 0.0


def rotated(count: int, round_index: int) -> list[int]:
    """The order in which `count` jobs run in a round: 0, 1, 2, then 1, 2, 0, and so on."""
    return [(position + round_index) % count for position in range(count)]


def measure(jobs: Sequence[Job], runner: Runner, settings: BenchmarkSettings, *, name: str, state: Callable[[], DeviceState],
            progress: Progress, clock: Any = time) -> Measurement:
    """Measures jobs.

    Args:
        jobs: what to measure.
        runner: that measures them.
        settings: how.
        name: of the device, for the progress bar.
        state: asks the device.
        progress: told of every slice.
        clock: tells the time (`monotonic`) and waits (`sleep`), as the module `time` does.

    Raises:
        DeviceLost: the device went away. Nothing is half-measured: what it gave so far is dropped.
    """
    began, rounds = clock.monotonic(), settings.rounds
    results = [JobResult(job) for job in jobs]
    states = [StateAt(0.0, state())]
    waited = measuring = 0.0
    with progress.task(f"benchmark on {name}", rounds * len(jobs)) as advance:
        for number in range(rounds):
            waited += _cool(states, state, began, settings.cool_down - waited, clock)
            for position, index in enumerate(rotated(len(jobs), number)):
                result = results[index]
                advance(number * len(jobs) + position, f"{result.job.file.name}, {counted(result.job.threads, 'thread')}")
                if result.failure:
                    continue
                try:
                    found = runner.slice(result.job, -(-settings.runs // rounds), settings.min_seconds / rounds, settings.warmup)
                except SliceFailed as error:
                    result.failure = str(error)
                    result.keep(f"round {number + 1}: timed", error.log)
                    continue
                result.slices.append(found)
                result.keep(f"round {number + 1}: timed", found.log)
                measuring += _timed(found) / 1000
            states.append(StateAt(clock.monotonic() - began, state()))
        for result in results:
            if not result.failure:
                _measure_apart(result, runner, settings.runs if settings.profile else 0)
        advance(rounds * len(jobs), "")
    return Measurement(tuple(results), tuple(states), rounds, waited, measuring, clock.monotonic() - began)


def _measure_apart(result: JobResult, runner: Runner, profiled_runs: int) -> None:
    """Memory, and operators where runs for them are asked for: never in a start whose times are reported."""
    def apart(what: str, unknown: str, start: Callable[[], tuple[Any, str]]) -> Any:
        try:
            found, log = start()
        except SliceFailed as error:
            result.problems.append(f"{unknown} not known: {error}")
            found, log = None, error.log
        result.keep(f"{what}, not timed", log)
        return found

    result.peak_memory_mb = apart("memory", "peak memory is", lambda: runner.memory(result.job))
    if profiled_runs:
        result.profile = apart("operators", "the operators' times are", lambda: runner.profile(result.job, profiled_runs))


def _timed(found: Slice) -> float:
    """Milliseconds of timed runs."""
    if found.samples_ms:
        return sum(found.samples_ms)
    return float(found.summary.get("runs") or 0) * float(found.summary.get("mean_ms") or 0.0)


def _cool(states: list[StateAt], state: Callable[[], DeviceState], began: float, limit: float, clock: Any) -> float:
    """Waits until a device is not much warmer than at the start, and gives the seconds waited."""
    first, now = states[0].state, states[-1].state
    waiting = clock.monotonic()
    while _is_hot(first, now) and clock.monotonic() - waiting < limit:
        clock.sleep(min(_POLL_SECONDS, max(0.0, limit - (clock.monotonic() - waiting))))
        now = state()
        states.append(StateAt(clock.monotonic() - began, now))
    return clock.monotonic() - waiting


def _is_hot(first: DeviceState, now: DeviceState) -> bool:
    warmer = (now.cpu_temperature_c or 0.0) - (first.cpu_temperature_c if first.cpu_temperature_c is not None else math.inf)
    return (now.thermal_status or 0) > (first.thermal_status or 0) or warmer > _WARMER
