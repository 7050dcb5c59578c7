"""The programs that measure on a device: the kit's own, and TFLite's benchmark_model."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnv3_tf.export.benchmark.devices.remote import Answer
from mnv3_tf.export.benchmark.devices.session import DeviceSession
from mnv3_tf.export.benchmark.measure import Job, Slice, SliceFailed
from mnv3_tf.export.benchmark.runners.binaries import Binary
from mnv3_tf.export.benchmark.runners.kit_runner import RunnerResult, parse_runner_output, runner_arguments
from mnv3_tf.export.benchmark.runners.logs import BenchmarkLog, failure, parse_log, remarks
from mnv3_tf.export.benchmark.runners.operators import Event, Profile, layer_of, name_operators
from mnv3_tf.export.benchmark.runners.runner_build import RunnerBundle
from mnv3_tf.tflite.file import read_tflite
from mnv3_tf.tflite.runtime import NO_DELEGATE

# A slice may take so much longer than its timed part: loading, warm-up, and slow devices.
_PATIENCE = 120.0
# Runs of a start that is not timed.
_MEMORY_RUNS, _PROFILED_RUNS, _PROFILED_SECONDS = 3, 50, 1.0
_BY_THE_RUNTIME = "each operator timed by XNNPACK or the runtime to the nanosecond, in runs of its own"
_BY_THE_TOOL = "benchmark_model's table, in whole microseconds, in runs of its own"
# An operator as files name it; anything else is a delegate's.
_OF_A_FILE = re.compile(r"[A-Z0-9_]+")
_XNNPACK_LINE = "XNNPACK delegate for CPU"


class _OnDevice:
    """A session with the files to measure in it."""

    name = ""

    def __init__(self, session: DeviceSession):
        self.session = session
        self._models: dict[Path, str] = {}

    def model(self, file: Path) -> str:
        """The path of a file on the device, copied at the first time."""
        if file not in self._models:
            self._models[file] = self.session.push(file, f"model{len(self._models)}.tflite")
        return self._models[file]

    def start(self, job: Job, words: list[str], seconds: float) -> Answer:
        """Runs a program on the job's cores."""
        pinned = ["taskset", f"{job.mask:x}"] if job.mask is not None else []
        return self.session.run([*pinned, *words], seconds=seconds + _PATIENCE)


class KitRunner(_OnDevice):
    """The kit's own program.

    Args:
        session: on the device.
        bundle: from :func:`mnv3_tf.export.benchmark.runners.runner_build.build_runner`.
        delegate: "xnnpack" or "none".
        seed: of the random input.
    """

    name = "kit"

    def __init__(self, session: DeviceSession, bundle: RunnerBundle, *, delegate: str = "xnnpack", seed: int = 0):
        super().__init__(session)
        self.bundle, self.seed = bundle, seed
        self.kernels = "xnnpack" if delegate == "xnnpack" else "builtin"
        self.sha256, self.version = bundle.sha256, bundle.version

    def install(self) -> None:
        """Copies the program and its libraries.

        Raises:
            KitError: the device is full or read-only.
        """
        for name, file in self.bundle.files.items():
            self.session.push(file, name, executable=True)

    def slice(self, job: Job, runs: int, seconds: float, warmup: int) -> Slice:
        found, log = self._run(job, self._words(job, warmup=warmup, runs=runs, min_seconds=seconds), seconds)
        return Slice(found.samples_ms, {}, found.init_ms, found.first_ms, "xnnpack" if _XNNPACK_LINE in log else NO_DELEGATE,
                     log=log, dot_products=found.dot_products)

    def memory(self, job: Job) -> tuple[float | None, str]:
        found, log = self._run(job, self._words(job, measure="memory", warmup=_MEMORY_RUNS), 0)
        return found.peak_memory_mb, log

    def profile(self, job: Job, runs: int) -> tuple[Profile, str]:
        return self.operators(job, max(runs, _PROFILED_RUNS), _PROFILED_SECONDS)

    def operators(self, job: Job, runs: int, seconds: float) -> tuple[Profile, str]:
        """The profile of at least so many runs and seconds.

        Raises:
            SliceFailed: the runner gave none.
        """
        found, log = self._run(job, self._words(job, measure="operators", runs=runs, min_seconds=seconds), seconds)
        ops, problem = name_operators(found.operators, read_tflite(job.file))
        low, _, high = found.total_ms
        return Profile(ops, _BY_THE_RUNTIME, found.profiled_runs, low, high, problem), log

    def _words(self, job: Job, **changes: Any) -> list[str]:
        return runner_arguments(self.model(job.file), threads=job.threads, seed=self.seed, kernels=self.kernels, **changes)

    def outputs(self, file: Path, tensors: Path, target: Path) -> None:
        """Runs input tensors through a model on the device.

        Args:
            file: the model.
            tensors: one or more input tensors, one after the other.
            target: a file here for their outputs.

        Raises:
            SliceFailed: the runner gave no outputs.
        """
        job = Job(file, 1, None, "all")
        inputs = self.session.push(tensors, "inputs.bin")
        outputs = self.session.path("outputs.bin")
        self._run(job, runner_arguments(self.model(file), kernels=self.kernels, inputs=inputs, outputs=outputs), _PATIENCE)
        self.session.device.pull(outputs, target)

    def _run(self, job: Job, words: list[str], seconds: float) -> tuple[RunnerResult, str]:
        answer = self.start(job, [*self.bundle.command(self.session.folder), *words], seconds)
        log = _log(answer)
        found = parse_runner_output(answer.output, answer.errors, answer.code)
        if isinstance(found, str):
            raise SliceFailed(found, log)
        return found, log


class ToolRunner(_OnDevice):
    """TFLite's benchmark_model.

    Args:
        session: on the device.
        binary: the program here.
        delegate: "xnnpack", "gpu", "nnapi", "hexagon" or "none".
        use_cache: XNNPACK's weight cache.
    """

    name = "benchmark_model"

    def __init__(self, session: DeviceSession, binary: Binary, *, delegate: str = "xnnpack", use_cache: bool = False):
        super().__init__(session)
        self.binary, self.delegate, self.use_cache = binary, delegate, use_cache
        self.sha256, self.version = binary.sha256, binary.version

    def install(self) -> None:
        """Copies the program.

        Raises:
            KitError: the device is full or read-only.
        """
        self.program = self.session.push(self.binary.path, "benchmark_model", executable=True)

    def slice(self, job: Job, runs: int, seconds: float, warmup: int) -> Slice:
        log, text = self._run(job, self._flags(job, runs, seconds, warmup), seconds)
        # Newer builds apply XNNPACK by default and say so, so silence means none.
        names = ("runs", "median_ms", "mean_ms", "min_ms", "max_ms", "p95_ms")
        summary = {name: value for name in names if (value := getattr(log, name)) is not None}
        return Slice((), summary, log.init_ms, log.first_ms, log.delegate or NO_DELEGATE, log.partitions,
                     warnings=remarks(log, runs, delegate=self.delegate), log=text)

    def memory(self, job: Job) -> tuple[float | None, str]:
        log, text = self._run(job, [*self._flags(job, _MEMORY_RUNS, 0, 1), "--report_peak_memory_footprint=true"], 0)
        return log.peak_memory_mb, text

    def profile(self, job: Job, runs: int) -> tuple[Profile, str]:
        flag = "--use_profiler=true" if self.binary.dialect == "litert" else "--enable_op_profiling=true"
        log, text = self._run(job, [*self._flags(job, runs, 0, 1), flag], 0)
        if not log.ops:
            raise SliceFailed("benchmark_model printed no table of operators; take --runner kit for them", text)
        ops, problem = tuple(replace(op, name=layer_of(op.name)) for op in log.ops if _OF_A_FILE.fullmatch(op.kind)), ""
        if len(log.ops) == 1 and log.delegate_ops:
            ops, problem = name_operators([Event(op.kind, op.mean_ms) for op in log.delegate_ops], read_tflite(job.file))
        elif len(ops) < len(log.ops):
            ops, problem = log.ops, "benchmark_model gives the times of delegate partitions, and not of what is in them"
        return Profile(ops, _BY_THE_TOOL, log.runs or runs, problem=problem), text

    def _run(self, job: Job, flags: list[str], seconds: float) -> tuple[BenchmarkLog, str]:
        answer = self.start(job, [self.program, *flags], seconds)
        log = parse_log(answer.output + "\n" + answer.errors)
        reason = failure(log, answer.code, delegate=self.delegate)
        if reason:
            raise SliceFailed(reason, _log(answer))
        return log, _log(answer)

    def _flags(self, job: Job, runs: int, seconds: float, warmup: int) -> list[str]:
        flags = [f"--graph={self.model(job.file)}", f"--num_threads={job.threads}", f"--num_runs={runs}",
                 f"--min_secs={seconds:g}", f"--warmup_runs={max(warmup, 1)}", "--warmup_min_secs=0"]
        if self.delegate != "xnnpack":
            flags.append("--use_xnnpack=false")
        if self.delegate in ("gpu", "nnapi", "hexagon"):
            flags.append(f"--use_{self.delegate}=true")
        if self.use_cache:
            flags += ["--use_caching=true", f"--xnnpack_weight_cache_file_path={self.session.path('weights.cache')}"]
        return flags


def _log(answer: Answer) -> str:
    return f"# exit code {answer.code}\n#--- stdout\n{answer.output}\n#--- stderr\n{answer.errors}"
