"""Instructions of one inference on an emulated ARM processor, which depend on neither the speed nor the load of this machine.

They are not time. XNNPACK chooses its kernels by the emulated processor, so these are the instructions that a phone with it
executes; what caches, memory and slow instructions cost is not in them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.devices.emulator import EmulatedArm, Processor, emulated_arm, processor
from mnv3_tf.export.benchmark.devices.identity import DeviceIdentity
from mnv3_tf.export.benchmark.measure import BenchmarkSettings, Job, SliceFailed
from mnv3_tf.export.benchmark.result import Result, delegated_part, unmeasured_row
from mnv3_tf.export.benchmark.runners.operators import Profile
from mnv3_tf.export.benchmark.runners.runners import KitRunner
from mnv3_tf.export.benchmark.store import Record
from mnv3_tf.progress import Progress
from mnv3_tf.tflite.file import TfliteFile, read_tflite

ARM = "arm"
# Counted runs, behind one that is not, and how far they may lie apart.
_RUNS, _WARMUP, _TOLERANCE = 3, 1, 1.005
_PROFILED_RUNS = 2
_PER_MS = 1e6  # the runner's clock counts a nanosecond for each
_METHOD = "each operator's instructions, counted in runs of its own"


def count_instructions(target: str, files: Sequence[Path], settings: BenchmarkSettings, progress: Progress) -> Result:
    """Counts the ARM instructions of one inference of each file, with one thread.

    Args:
        target: "arm", or "arm:" and the name of a processor.
        files: `.tflite` files.
        settings: of which delegate, seed and profile matter.
        progress: told of each file.

    Returns:
        The rows, each with `instructions` and `dot_products`; with a profile also `ops`, each with its `instructions`.

    Raises:
        InputError: a file or a setting that cannot be used.
        NoDeviceError: qemu or the compiler is missing.
    """
    emulated = processor(target.partition(":")[2])
    if settings.threads != (1,) or settings.delegate not in ("xnnpack", "none") or settings.runner != "kit":
        raise InputError("--target arm counts with one thread, the kit's runner, and --delegate xnnpack or none: leave --threads "
                         "and --runner out, or measure other targets in a run of their own.")
    facts = {file: read_tflite(file) for file in files}
    rows, logs = [], []
    with emulated_arm(emulated, progress, counting=True, delegate=settings.delegate, seed=settings.seed) as runner:
        with progress.task(f"instructions on {runner.session.device.name}", len(files)) as advance:
            for number, file in enumerate(files):
                advance(number, file.name)
                row, log = _row(file, facts[file], emulated, runner, settings)
                rows.append(row)
                logs.append(log)
            advance(len(files), "")
        identity = _identity(emulated, runner)
    notes = (f"Counted on an {identity.name} ({emulated.about}; {identity.system}, {runner.version}): instructions of one "
             "inference, which do not depend on this machine's speed or load. They are not time: what caches, memory and slow "
             "instructions cost is not in them.",)
    return Result(tuple(rows), None, tuple(logs), identity, notes=notes)


def _identity(emulated: Processor, runner: KitRunner) -> DeviceIdentity:
    device = runner.session.device
    assert isinstance(device, EmulatedArm)
    return DeviceIdentity(device.name, "aarch64", emulated.about, device.version, None, emulated.name)


def _row(path: Path, file: TfliteFile, emulated: Processor, runner: KitRunner,
         settings: BenchmarkSettings) -> tuple[Record, str]:
    """A row, and all that the runner printed."""
    job, logs, warnings = Job(path, 1, None, "all"), [], []
    row = unmeasured_row(job, file, runner, target=f"{ARM}:{emulated.name}", identity=_identity(emulated, runner),
                         delegate=settings.delegate)
    row["settings"] = {"delegate": settings.delegate, "seed": settings.seed, "profile": settings.profile}
    try:
        found = runner.slice(job, _RUNS, 0.0, _WARMUP)
    except SliceFailed as error:
        return {**row, "failure": str(error)}, error.log
    logs.append(found.log)
    counts = sorted(round(sample * _PER_MS) for sample in found.samples_ms)
    if counts[-1] > counts[0] * _TOLERANCE:
        reason = f"one run takes {counts[0]} instructions and another {counts[-1]}, so something else was counted too"
        return {**row, "failure": reason}, found.log
    row |= {"runs": _RUNS, "rounds": 1, "instructions": counts[_RUNS // 2], "dot_products": found.dot_products,
            **delegated_part(found, job, runner, settings.delegate)}
    if settings.profile:
        try:
            profile, log = runner.operators(job, _PROFILED_RUNS, 0.0)
            row |= _profile_fields(profile, row["instructions"])
            row["flags"] += [f"profile without layers: {profile.problem}"] if profile.problem else []
        except SliceFailed as error:
            log = error.log
            warnings.append(f"the operators' instructions are not known: {error}")
        logs.append(log)
    return {**row, "warnings": warnings}, "\n".join(logs)


def _profile_fields(profile: Profile, instructions: int) -> dict[str, Any]:
    """`ops` and `profile` of a row."""
    ops = [asdict(op) for op in profile.ops]
    for op in ops:
        op["instructions"] = round(op.pop("mean_ms") * _PER_MS)
    total = sum(op["instructions"] for op in ops)
    return {"ops": ops, "profile": {"method": _METHOD, "runs": profile.runs, "sum_instructions": total,
                                    "of_all": total / instructions, "problem": profile.problem or None}}
