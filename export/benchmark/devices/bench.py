"""Devices to measure on: found by the name that `--target` gives them, and what is done on one, or on several side by side."""

import concurrent.futures
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.export.benchmark.devices.adb import Adb, AdbDevice
from mnv3_tf.export.benchmark.devices.cores import CORES_SCRIPT, parse_cores
from mnv3_tf.export.benchmark.devices.identity import identify
from mnv3_tf.export.benchmark.devices.remote import RemoteDevice
from mnv3_tf.export.benchmark.devices.session import DeviceSession, allow_sessions, close_all, interrupts, opened
from mnv3_tf.export.benchmark.devices.ssh import SshDevice
from mnv3_tf.export.benchmark.devices.state import STATE_SCRIPT, parse_state
from mnv3_tf.export.benchmark.measure import BenchmarkSettings, Job
from mnv3_tf.export.benchmark.result import Result, measure_rows
from mnv3_tf.export.benchmark.runners.binaries import benchmark_binary
from mnv3_tf.export.benchmark.runners.runner_build import build_runner
from mnv3_tf.export.benchmark.runners.runners import KitRunner, ToolRunner
from mnv3_tf.progress import Progress
from mnv3_tf.text import counted
from mnv3_tf.tflite.file import read_tflite

T = TypeVar("T")


def open_target(target: str) -> RemoteDevice:
    """A device by the name that `--target` gives it.

    Args:
        target: "adb", "adb:SERIAL" or "ssh:HOST".

    Raises:
        NoDeviceError: it is not there, or cannot be used; the message says what to do.
        InputError: there is no such kind of target.
    """
    kind, _, name = target.partition(":")
    if kind == "adb":
        adb = Adb()
        return AdbDevice(adb, adb.choose(name or None).serial)
    if kind == "ssh" and name:
        return SshDevice(name)
    raise InputError(f"{target!r}: is not a target. Give host, adb, adb:SERIAL, ssh:HOST or all.")


def open_targets(targets: Sequence[str]) -> tuple[list[RemoteDevice], list[str]]:
    """The devices that can be used, and a line for each that cannot.

    Args:
        targets: as for :func:`open_target`; "all" is every phone that adb knows.
    """
    devices: list[RemoteDevice] = []
    problems: list[str] = []
    for target in targets:
        try:
            if target != "all":
                devices.append(open_target(target))
                continue
            adb = Adb()
            entries = adb.devices()
            devices += [AdbDevice(adb, entry.serial) for entry in entries if entry.usable]
            problems += [entry.problem() for entry in entries if not entry.usable]
        except KitError as error:
            problems.append(str(error))
    return devices, problems


def benchmark_device(device: RemoteDevice, files: Sequence[Path], settings: BenchmarkSettings, progress: Progress) -> Result:
    """Measures files on a device, and leaves nothing there.

    Raises:
        InputError: a file or a choice of cores that cannot be used.
        KitError: the device cannot be used, or went away.
    """
    facts = {file: read_tflite(file) for file in files}
    if settings.fixed_performance and device.kind != "adb":
        raise InputError("--fixed-performance is Android's; a board's governor is set by its administrator.")
    identity, layout = identify(device), parse_cores(device.check(CORES_SCRIPT))
    masks = [layout.mask(choice) for choice in settings.cores]
    jobs = [Job(file, threads, mask, text) for file in files for threads in settings.threads for mask, text in masks]
    with opened(device, progress.say) as session:
        if settings.fixed_performance:
            session.undo_at_end("cmd power set-fixed-performance-mode-enabled false")
            device.check("cmd power set-fixed-performance-mode-enabled true")
        runner = _runner(session, identity.architecture, settings, progress)
        progress.say(f"{identity.name}: copying the runner and {counted(len(files), 'file')}")
        runner.install()
        for file in files:
            runner.model(file)
        return measure_rows(jobs, facts, runner, settings, target=f"{device.kind}:{identity.alias}", identity=identity,
                            state=lambda: parse_state(device.check(STATE_SCRIPT)), progress=progress)


def _runner(session: DeviceSession, architecture: str, settings: BenchmarkSettings, progress: Progress) -> KitRunner | ToolRunner:
    if settings.runner == "benchmark_model":
        binary = benchmark_binary("android" if session.device.kind == "adb" else "linux", architecture, given=settings.binary,
                                  progress=progress)
        return ToolRunner(session, binary, delegate=settings.delegate, use_cache=settings.use_cache)
    if settings.use_cache:
        raise InputError("--use-cache is benchmark_model's; take --runner benchmark_model for it.")
    if settings.delegate not in ("xnnpack", "none"):
        raise InputError(f"the kit's runner has no {settings.delegate} delegate; take --runner benchmark_model for it.")
    return KitRunner(session, build_runner(architecture, progress), delegate=settings.delegate, seed=settings.seed)


def on_each(devices: Sequence[RemoteDevice], work: Callable[[RemoteDevice], T]) -> list[T | KitError]:
    """Does the same on every device at once.

    Args:
        devices: where.
        work: what; it opens sessions, which are closed here when the user stops the program.

    Returns:
        In the order of the devices: what `work` gave, or the error that it ended with.
    """
    def result_of(device: RemoteDevice) -> T | KitError:
        try:
            return work(device)
        except KitError as error:
            return error

    allow_sessions()
    with interrupts(), concurrent.futures.ThreadPoolExecutor(max(1, len(devices))) as pool:
        try:
            return list(pool.map(result_of, devices))
        except BaseException:
            close_all()
            raise


def run_on_device(target: str, model: Path, tensors: Path, outputs: Path, progress: Progress) -> None:
    """Runs input tensors through a file on a device, and leaves nothing there.

    Args:
        target: "adb", "adb:SERIAL" or "ssh:HOST".
        model: a `.tflite` file.
        tensors: one or more input tensors, one after the other.
        outputs: a file here for their outputs.
        progress: told of what is done.

    Raises:
        KitError: the device cannot be used, or gave no outputs.
    """
    device = open_target(target)
    architecture = identify(device).architecture
    with opened(device, progress.say) as session:
        runner = KitRunner(session, build_runner(architecture, progress))
        runner.install()
        runner.outputs(model, tensors, outputs)
