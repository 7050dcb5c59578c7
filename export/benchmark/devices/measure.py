"""Measures files on one device in interleaved rounds, with its state before, between and after.

Every (file, threads, cores) is a job. In each round every job runs one slice, in an order that rotates from round to round, so a
device that warms up meanwhile is unfair to none. Between rounds the device may cool down, up to a limit.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mnv3_tf.errors import KitError
from mnv3_tf.export.benchmark.devices.state import DeviceState
from mnv3_tf.export.benchmark.host import rotated
from mnv3_tf.export.benchmark.runners.operators import Profile
from mnv3_tf.progress import Progress


class Clock:
    """The time of a measurement, in seconds."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


_CLOCK = Clock()
# A CPU that is so much warmer than at the start, in degrees Celsius, is waited for.
_WARMER = 8.0
_POLL_SECONDS = 3.0


@dataclass(frozen=True)
class Job:
    """What is measured as one row.

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
        summary: runs, and of them median_ms, mean_ms, min_ms, max_ms, p95_ms, std_ms as far as the runner says.
        delegate: what really ran: "xnnpack", "gpu", "none (CPU kernels)" and so on.
        log: all that the runner printed.
    """

    samples_ms: tuple[float, ...]
    summary: dict[str, Any]
    init_ms: float | None
    first_ms: float | None
    delegate: str
    partitions: int | None = None
    warnings: tuple[str, ...] = ()
    temperatures_c: tuple[float, ...] = ()
    log: str = ""


@dataclass(frozen=True)
class Apart:
    """What is measured in starts of a runner that are not timed, for it disturbs the times.

    Attributes:
        peak_memory_mb: of the process.
        profile: the operators' times, where they were asked for.
        problems: why one of them is not known.
    """

    peak_memory_mb: float | None = None
    profile: Profile | None = None
    problems: tuple[str, ...] = ()


class SliceFailed(KitError):
    """A runner gave no measurement; `log` is what it printed."""

    def __init__(self, reason: str, log: str = ""):
        super().__init__(reason)
        self.log = log


class Runner(Protocol):
    """A program that measures on the device."""

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
    """The slices of a job, or why it has none. Each log begins with a line that says what that start was for."""

    job: Job
    slices: list[Slice] = field(default_factory=list)
    failure: str = ""
    logs: list[str] = field(default_factory=list)
    apart: Apart = Apart()


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


def measure(jobs: Sequence[Job], runner: Runner, *, runs: int, seconds: float, warmup: int, rounds: int, cool_down: float,
            profile: bool, state: Callable[[], DeviceState], name: str, progress: Progress,
            clock: Clock = _CLOCK) -> Measurement:
    """Measures jobs.

    Args:
        jobs: what to measure.
        runner: that measures them.
        runs, seconds: timed runs and timed seconds for each job at least, over all rounds.
        warmup: untimed runs before each slice.
        rounds: slices for each job.
        cool_down: seconds to wait at most before a round for a device that is warmer than at the start; 0: never.
        profile: whether operators are timed too, behind the timed runs.
        state: asks the device.
        name: of the device, for the progress bar.
        progress: told of every slice.
        clock: tells the time, and waits.

    Raises:
        DeviceLost: the device went away. Nothing is half-measured: what it gave so far is dropped.
    """
    began = clock.now()
    results = [JobResult(job) for job in jobs]
    states = [StateAt(0.0, state())]
    waited = measuring = 0.0
    with progress.task(f"benchmark on {name}", rounds * len(jobs)) as advance:
        for number in range(rounds):
            waited += _cool(states, state, began, cool_down - waited, clock)
            for position, index in enumerate(rotated(len(jobs), number)):
                result = results[index]
                advance(number * len(jobs) + position, f"{result.job.file.name}, {result.job.threads} threads")
                if result.failure:
                    continue
                try:
                    found = runner.slice(result.job, -(-runs // rounds), seconds / rounds, warmup)
                except SliceFailed as error:
                    result.failure = str(error)
                    result.logs.append(_headed(f"round {number + 1}: timed", error.log))
                    continue
                result.slices.append(found)
                result.logs.append(_headed(f"round {number + 1}: timed", found.log))
                measuring += _timed(found) / 1000
            states.append(StateAt(clock.now() - began, state()))
        for result in results:
            if not result.failure:
                _measure_apart(result, runner, runs if profile else 0)
        advance(rounds * len(jobs), "")
    return Measurement(tuple(results), tuple(states), rounds, waited, measuring, clock.now() - began)


def _measure_apart(result: JobResult, runner: Runner, profiled_runs: int) -> None:
    """Memory, and operators where runs for them are asked for: never in a start whose times are reported."""
    memory: float | None = None
    found: Profile | None = None
    problems = []
    try:
        memory, log = runner.memory(result.job)
        result.logs.append(_headed("memory, not timed", log))
    except SliceFailed as error:
        problems.append(f"peak memory is not known: {error}")
        result.logs.append(_headed("memory, not timed", error.log))
    try:
        if profiled_runs:
            found, log = runner.profile(result.job, profiled_runs)
            result.logs.append(_headed("operators, not timed", log))
    except SliceFailed as error:
        problems.append(f"the operators' times are not known: {error}")
        result.logs.append(_headed("operators, not timed", error.log))
    result.apart = Apart(memory, found, tuple(problems))


def _headed(what: str, log: str) -> str:
    return f"#=== {what}\n{log}"


def _timed(found: Slice) -> float:
    """Milliseconds of timed runs."""
    if found.samples_ms:
        return sum(found.samples_ms)
    return float(found.summary.get("runs") or 0) * float(found.summary.get("mean_ms") or 0.0)


def _cool(states: list[StateAt], state: Callable[[], DeviceState], began: float, limit: float, clock: Clock) -> float:
    """Waits until a device is not much warmer than at the start, and gives the seconds waited."""
    first, now = states[0].state, states[-1].state
    waiting = clock.now()
    while _is_hot(first, now) and clock.now() - waiting < limit:
        clock.sleep(min(_POLL_SECONDS, max(0.0, limit - (clock.now() - waiting))))
        now = state()
        states.append(StateAt(clock.now() - began, now))
    return clock.now() - waiting


def _is_hot(first: DeviceState, now: DeviceState) -> bool:
    if (now.thermal_status or 0) > (first.thermal_status or 0):
        return True
    if first.cpu_temperature_c is None or now.cpu_temperature_c is None:
        return False
    return now.cpu_temperature_c > first.cpu_temperature_c + _WARMER
