"""Measures the latency of .tflite files on this machine.

How the numbers are made, so that they can be trusted:

- Every (file, threads) pair is loaded once and stays loaded. The runs are spread over several rounds; in each round
  every pair runs one slice, in an order that rotates from round to round. A machine that slows down or speeds up
  meanwhile hits all pairs alike.
- Each run is timed alone. Only the invocation is timed: copying the input in and the result out is not.
- A slice begins with two untimed runs, because the pair before it has emptied the caches.
- Two files are compared by :func:`mnv3_tf.export.benchmark.statistics.ratio_with_interval` over paired rounds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.environment import environment, temperature_c
from mnv3_tf.export.benchmark.statistics import MIN_ROUNDS, percentile, ratio_with_interval
from mnv3_tf.progress import Advance, Progress, Silent
from mnv3_tf.tflite.file import parse_tflite, read_tflite_bytes
from mnv3_tf.tflite.runtime import LiteRTModel

SLICE_WARMUP = 2
#: Two loads of one and the same file differ by up to this much (measured: 1.6%; where their memory lies), so a smaller
#: difference says nothing about the file.
SAME_FILE_MARGIN = 1.02
NANOSECONDS_PER_MS = 1_000_000

#: samples[pair][round][run]: milliseconds.
Samples = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class BenchmarkRow:
    """The measurement of one file with one number of threads. Times in milliseconds, of the invocation alone.

    Attributes:
        target: where it ran; "host" is this machine.
        runs: timed runs, over all rounds.
        spread: (p90 - p10) / median.
        drift: median of the last round / median of the first; above 1.1, the machine got slower during the run.
        init_ms: to create the interpreter and plan its memory.
        first_ms: the very first invocation.
        partitions: parts of the graph run by the XNNPACK delegate.
        operators_outside: names of the operators outside of the delegate; all of them when there is none.
        delegate: as really ran: "xnnpack" or "none (CPU kernels)".
        dynamic_batch: the file left its batch size open, and it was run as 1.
    """

    file: str
    target: str
    threads: int
    runs: int
    median_ms: float
    mean_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    min_ms: float
    max_ms: float
    spread: float
    drift: float
    init_ms: float
    first_ms: float
    partitions: int
    operators_outside: tuple[str, ...]
    delegate: str
    dynamic_batch: bool
    size_bytes: int
    sha256: str
    input_dtype: str
    output_dtype: str
    runtime: str
    machine: str
    cores_usable: int
    governor: str
    temperature_before_c: float | None
    temperature_after_c: float | None


@dataclass(frozen=True)
class Comparison:
    """A row's latency relative to the baseline's with the same number of threads: below 1 is faster.

    `verdict` says "faster" or "slower" only where the whole 95% interval is further from 1 than two loads of one file
    can be (:data:`SAME_FILE_MARGIN`).
    """

    file: str
    threads: int
    baseline: str
    ratio: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class BenchmarkResult:
    """Rows, the raw samples behind them (in the same order), and the machine that they were measured on."""

    rows: tuple[BenchmarkRow, ...]
    samples: Samples
    environment: dict[str, Any]

    def to_dict(self, *, against: str | None = None) -> dict[str, Any]:
        """As plain data for JSON: rows, comparisons, environment and samples_ms[row][round][run]."""
        return {"rows": [asdict(row) for row in self.rows],
                "comparisons": [asdict(entry) for entry in compare_rows(self, against=against)],
                "environment": self.environment,
                "samples_ms": [[list(slice_) for slice_ in rounds] for rounds in self.samples]}


class Runnable(Protocol):
    """What :func:`measure_rounds` needs of a model."""

    def invoke(self) -> None:
        """Runs once."""


@dataclass(frozen=True)
class _Pair:
    path: str
    content_bytes: int
    sha256: str
    model: LiteRTModel
    first_ms: float


def benchmark_files(paths: Sequence[str | Path], *, threads: Sequence[int] = (1,), runs: int = 50, warmup: int = 10,
                    min_seconds: float = 1.0, rounds: int = 5, seed: int = 0, delegate: str = "xnnpack",
                    progress: Progress | None = None) -> BenchmarkResult:
    """Measures every file with every number of threads, interleaved.

    Args:
        paths: .tflite files; one may be given twice, to see what the measurement makes of equal things.
        threads: numbers of CPU threads.
        runs: timed runs for each pair at least, over all rounds.
        warmup: untimed runs for each pair before the first round (after the first run, which is reported by itself).
        min_seconds: timed seconds for each pair at least; short networks get more runs than `runs`.
        rounds: slices that the runs are split into. With fewer than four, no verdict is given.
        seed: of the random input.
        delegate: "xnnpack" or "none".
        progress: shows the slices done; nothing is shown without it.

    Raises:
        InputError: a file or a number that cannot be used.
        KitError: the runtime cannot load or run a file.
    """
    if not paths:
        raise InputError("no .tflite file was given to measure.")
    for name, number, least in (("runs", runs, 1), ("rounds", rounds, 1), ("warmup", warmup, 0)):
        if number < least:
            raise InputError(f"{name} is {number}, and must be {least} or more.")
    before = temperature_c()
    pairs = [_load(path, count, seed, delegate, warmup) for path in paths for count in threads]
    labels = [f"{Path(pair.path).name}, {pair.model.threads} thread{'s' * (pair.model.threads > 1)}" for pair in pairs]
    with (progress or Silent()).task("benchmark", rounds * len(pairs)) as advance:
        samples = measure_rounds([pair.model for pair in pairs], runs=runs, rounds=rounds, min_seconds=min_seconds,
                                 labels=labels, advance=advance)
    machine = environment()
    after = temperature_c()
    rows = tuple(replace(_row(pair, samples[index], machine), temperature_before_c=before, temperature_after_c=after)
                 for index, pair in enumerate(pairs))
    settings = {"runs": runs, "warmup": warmup, "min_seconds": min_seconds, "rounds": rounds, "seed": seed,
                "delegate": delegate, "timed": "the invocation alone; copying input and result is not timed"}
    return BenchmarkResult(rows=rows, samples=samples, environment={**machine, "settings": settings})


def rotated(count: int, round_index: int) -> list[int]:
    """The order in which `count` pairs run in a round: 0, 1, 2, then 1, 2, 0, and so on."""
    return [(position + round_index) % count for position in range(count)]


def measure_rounds(models: Sequence[Runnable], *, runs: int, rounds: int, min_seconds: float,
                   labels: Sequence[str] | None = None, advance: Advance | None = None,
                   clock: Callable[[], int] = time.perf_counter_ns) -> Samples:
    """Times the models in interleaved slices.

    Args:
        models: what to run.
        runs: for each model at least, over all rounds.
        rounds: slices for each model.
        min_seconds: timed seconds for each model at least.
        labels: what `advance` calls the models.
        advance: called before every slice with the slices done and the label of what runs now, and at the end.
        clock: nanoseconds, never going back.

    Returns:
        Milliseconds, samples[model][round][run].
    """
    slice_runs = -(-runs // rounds)
    slice_ns = min_seconds * 1e9 / rounds
    collected: list[list[tuple[float, ...]]] = [[] for _ in models]
    for round_index in range(rounds):
        for position, index in enumerate(rotated(len(models), round_index)):
            if advance is not None:
                advance(round_index * len(models) + position, labels[index] if labels else str(index))
            for _ in range(SLICE_WARMUP):
                models[index].invoke()
            collected[index].append(_slice(models[index], slice_runs, slice_ns, clock))
    if advance is not None:
        advance(rounds * len(models), "")
    return tuple(tuple(slices) for slices in collected)


def _slice(model: Runnable, runs: int, least_ns: float, clock: Callable[[], int]) -> tuple[float, ...]:
    times: list[int] = []
    spent = 0
    while len(times) < runs or spent < least_ns:
        started = clock()
        model.invoke()
        elapsed = clock() - started
        times.append(elapsed)
        # A clock that stands still must not keep the loop going.
        spent += max(elapsed, 1)
    return tuple(elapsed / NANOSECONDS_PER_MS for elapsed in times)


def compare_rows(result: BenchmarkResult, *, against: str | None = None) -> tuple[Comparison, ...]:
    """Each row's latency relative to the baseline file's row with the same number of threads.

    Args:
        result: of :func:`benchmark_files`.
        against: the baseline's path as in the rows; the first row's file when left out.

    Raises:
        InputError: `against` is not one of the measured files.
    """
    baseline_file = against if against is not None else result.rows[0].file
    baselines: dict[int, int] = {}
    for index, row in enumerate(result.rows):
        if row.file == baseline_file:
            baselines.setdefault(row.threads, index)
    if not baselines:
        files = ", ".join(dict.fromkeys(row.file for row in result.rows))
        raise InputError(f"{baseline_file}: is not among the measured files ({files}).")
    comparisons = []
    for index, row in enumerate(result.rows):
        base = baselines[row.threads]
        if index == base:
            ratio, low, high, said = 1.0, 1.0, 1.0, "baseline"
        else:
            ratio, low, high = ratio_with_interval(result.samples[index], result.samples[base])
            said = verdict(low, high, len(result.samples[index]))
        comparisons.append(Comparison(row.file, row.threads, baseline_file, ratio, low, high, said))
    return tuple(comparisons)


def verdict(low: float, high: float, rounds: int) -> str:
    """ "faster", "slower", "no difference shown" or "too few rounds", from the 95% interval of a ratio."""
    if rounds < MIN_ROUNDS:
        return "too few rounds"
    if high < 1.0 / SAME_FILE_MARGIN:
        return "faster"
    return "slower" if low > SAME_FILE_MARGIN else "no difference shown"


def _load(path: str | Path, threads: int, seed: int, delegate: str, warmup: int) -> _Pair:
    info = parse_tflite(read_tflite_bytes(path), name=path)
    model = LiteRTModel(path, threads=threads, delegate=delegate, fix_batch=True)
    model.fill_random(seed)
    started = time.perf_counter_ns()
    model.invoke()
    first_ms = (time.perf_counter_ns() - started) / NANOSECONDS_PER_MS
    for _ in range(warmup):
        model.invoke()
    return _Pair(str(path), info.size_bytes, info.sha256, model, first_ms)


def _row(pair: _Pair, rounds: Sequence[Sequence[float]], machine: dict[str, Any]) -> BenchmarkRow:
    times = sorted(time_ms for slice_ in rounds for time_ms in slice_)
    median = percentile(times, 50)
    model = pair.model
    return BenchmarkRow(
        file=pair.path, target="host", threads=model.threads, runs=len(times), median_ms=median,
        mean_ms=sum(times) / len(times), p90_ms=percentile(times, 90), p95_ms=percentile(times, 95),
        p99_ms=percentile(times, 99), min_ms=times[0], max_ms=times[-1],
        spread=(percentile(times, 90) - percentile(times, 10)) / median if median else 0.0,
        drift=drift_of(rounds), init_ms=model.init_ms, first_ms=pair.first_ms, partitions=model.partitions,
        operators_outside=model.undelegated_operators, delegate=model.delegate, dynamic_batch=model.dynamic_batch,
        size_bytes=pair.content_bytes, sha256=pair.sha256, input_dtype=model.input_dtype,
        output_dtype=model.output_dtype, runtime=machine["runtime"], machine=machine["cpu"],
        cores_usable=machine["cores_usable"], governor=machine["governor"], temperature_before_c=None,
        temperature_after_c=None)


def drift_of(rounds: Sequence[Sequence[float]]) -> float:
    """Median of the last round / median of the first."""
    first = percentile(sorted(rounds[0]), 50)
    return percentile(sorted(rounds[-1]), 50) / first if first else 1.0
