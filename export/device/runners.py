"""The programs that measure on a device: the kit's own, and TFLite's benchmark_model."""

from pathlib import Path

from mnv3_tf.export.device.binaries import Binary
from mnv3_tf.export.device.kit_runner import RunnerResult, parse_runner_output, runner_arguments
from mnv3_tf.export.device.logs import BenchmarkLog, failure, parse_log, remarks
from mnv3_tf.export.device.measure import Job, Slice, SliceFailed
from mnv3_tf.export.device.remote import Answer
from mnv3_tf.export.device.runner_build import RunnerBundle
from mnv3_tf.export.device.session import DeviceSession
from mnv3_tf.export.runtime import NO_DELEGATE

# A slice may take so much longer than its timed part: loading, warm-up, and slow devices.
_PATIENCE = 120.0
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

    def start(self, job: Job, words: list[str], seconds: float, environment: dict[str, str] | None = None) -> Answer:
        """Runs a program on the job's cores."""
        pinned = ["taskset", f"{job.mask:x}"] if job.mask is not None else []
        return self.session.run([*pinned, *words], seconds=seconds + _PATIENCE, environment=environment)


class KitRunner(_OnDevice):
    """The kit's own program.

    Args:
        session: on the device.
        bundle: from :func:`mnv3_tf.export.device.runner_build.build_runner`.
        delegate: "xnnpack" or "none".
        seed: of the random input.
        thermal: a thermal zone's file on the device, or None.
    """

    name = "kit"

    def __init__(self, session: DeviceSession, bundle: RunnerBundle, *, delegate: str = "xnnpack", seed: int = 0,
                 thermal: str | None = None):
        super().__init__(session)
        self.bundle, self.seed, self.thermal = bundle, seed, thermal
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
        words = runner_arguments(self.model(job.file), threads=job.threads, warmup=warmup, runs=runs, min_seconds=seconds,
                                 seed=self.seed, kernels=self.kernels, thermal=self.thermal)
        found, log = self._run(job, words, seconds)
        return Slice(found.samples_ms, {"runs": len(found.samples_ms)}, found.init_ms, found.first_ms, found.peak_memory_mb,
                     "xnnpack" if _XNNPACK_LINE in log else NO_DELEGATE, temperatures_c=found.temperatures_c, log=log)

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
        profile: also measure every operator; slower, so its latency is not to be compared.
        use_cache: XNNPACK's weight cache.
    """

    name = "benchmark_model"

    def __init__(self, session: DeviceSession, binary: Binary, *, delegate: str = "xnnpack", profile: bool = False,
                 use_cache: bool = False):
        super().__init__(session)
        self.binary, self.delegate, self.profile, self.use_cache = binary, delegate, profile, use_cache
        self.sha256, self.version = binary.sha256, binary.version

    def install(self) -> None:
        """Copies the program.

        Raises:
            KitError: the device is full or read-only.
        """
        self.program = self.session.push(self.binary.path, "benchmark_model", executable=True)

    def slice(self, job: Job, runs: int, seconds: float, warmup: int) -> Slice:
        answer = self.start(job, [self.program, *self._flags(job, runs, seconds, warmup)], seconds)
        log = parse_log(answer.output + "\n" + answer.errors)
        reason = failure(log, answer.code, delegate=self.delegate)
        if reason:
            raise SliceFailed(reason, _log(answer))
        return Slice((), _summary(log), log.init_ms, log.first_ms, log.peak_memory_mb, log.delegate or self._fallback(),
                     log.partitions, remarks(log, runs, delegate=self.delegate), ops=log.ops, log=_log(answer))

    def _fallback(self) -> str:
        """What ran where the log names no delegate: newer builds apply XNNPACK by default and say so, so silence means none."""
        return NO_DELEGATE

    def _flags(self, job: Job, runs: int, seconds: float, warmup: int) -> list[str]:
        flags = [f"--graph={self.model(job.file)}", f"--num_threads={job.threads}", f"--num_runs={runs}",
                 f"--min_secs={seconds:g}", f"--warmup_runs={max(warmup, 1)}", "--warmup_min_secs=0"]
        if self.delegate != "xnnpack":
            flags.append("--use_xnnpack=false")
        if self.delegate in ("gpu", "nnapi", "hexagon"):
            flags.append(f"--use_{self.delegate}=true")
        if self.profile:
            flags.append("--use_profiler=true" if self.binary.dialect == "litert" else "--enable_op_profiling=true")
        if self.use_cache:
            flags += ["--use_caching=true", f"--xnnpack_weight_cache_file_path={self.session.path('weights.cache')}"]
        return [*flags, "--report_peak_memory_footprint=true"]


def _summary(log: BenchmarkLog) -> dict[str, float | int]:
    values = {"runs": log.runs, "median_ms": log.median_ms, "mean_ms": log.mean_ms, "min_ms": log.min_ms, "max_ms": log.max_ms,
              "p95_ms": log.p95_ms, "std_ms": log.std_ms}
    return {name: value for name, value in values.items() if value is not None}


def _log(answer: Answer) -> str:
    return f"# exit code {answer.code}\n#--- stdout\n{answer.output}\n#--- stderr\n{answer.errors}"
