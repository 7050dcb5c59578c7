"""Rows of the tools of microcontrollers: tflite-micro's arena, and Vela's estimate of an Arm Ethos-U. Nothing is timed."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.devices.identity import DeviceIdentity
from mnv3_tf.export.benchmark.measure import BenchmarkSettings, Job
from mnv3_tf.export.benchmark.result import Result, unmeasured_row
from mnv3_tf.export.benchmark.store import Record
from mnv3_tf.export.microcontrollers import ACCELERATOR, ETHOS_U, MICRO, EthosURun, MicroRun, compile_for_ethos_u, run_on_micro
from mnv3_tf.progress import Progress
from mnv3_tf.tflite.file import read_tflite, read_tflite_bytes


@dataclass(frozen=True)
class _Tool:
    name: str
    version: str = ""
    sha256: str | None = None


def measure_micro(target: str, files: Sequence[Path], settings: BenchmarkSettings, progress: Progress) -> Result:
    """What tflite-micro or Vela says of each file.

    Args:
        target: "micro", "ethos-u", or "ethos-u:" and an accelerator as Vela calls it.
        files: `.tflite` files.
        settings: of which none but the number of threads matters, which must be one.
        progress: told of each file.

    Returns:
        The rows, with `arena_bytes` and for Ethos-U `estimated_cycles`.

    Raises:
        InputError: a file or a setting that cannot be used.
        NoDeviceError: the tool is not installed.
    """
    kind, _, accelerator = target.partition(":")
    if settings.threads != (1,) or settings.profile:
        raise InputError(f"--target {kind} gives one row for each file: leave --threads and --profile out, or measure other "
                         "targets in a run of their own.")
    accelerator = accelerator or ACCELERATOR
    identity = DeviceIdentity(*(("tflite-micro", platform.machine(), "") if kind == MICRO else
                                (f"Arm {accelerator.title()}", "arm", accelerator)), "", None, "")
    facts = {file: read_tflite(file) for file in files}
    rows: list[Record] = []
    found: MicroRun | EthosURun | None = None
    with progress.task(kind, len(files)) as advance:
        for number, file in enumerate(files):
            advance(number, file.name)
            content = read_tflite_bytes(file)
            found = run_on_micro(content, file.name) if kind == MICRO else compile_for_ethos_u(content, accelerator)
            row = unmeasured_row(Job(file, 1, None, "all"), facts[file],
                                 _Tool("tflite-micro" if kind == MICRO else "vela", found.version), identity=identity,
                                 target=MICRO if kind == MICRO else f"{ETHOS_U}:{accelerator}", delegate=kind)
            rows.append({**row, "delegate": kind, **_figures(found)})
        advance(len(files), "")
    assert found is not None
    return Result(tuple(rows), None, (), identity, notes=(_note(found),))


def _figures(found: MicroRun | EthosURun) -> dict[str, Any]:
    if found.refused:
        return {"failure": found.failures()[0]}
    if isinstance(found, MicroRun):
        return {"arena_bytes": found.arena_bytes, "flags": found.failures(), "settings": {}}
    return {"arena_bytes": found.sram_bytes, "estimated_cycles": found.estimated_cycles, "flags": found.failures(),
            "operators_outside": list(found.outside), "settings": {"system": found.settings}}


def _note(found: MicroRun | EthosURun) -> str:
    if isinstance(found, MicroRun):
        return (f"Run by tflite-micro {found.version}, with the arena that it asked for on this 64-bit machine: on a 32-bit "
                "microcontroller the interpreter's own structures are smaller, and kernels made for one may ask for more.")
    return (f"Compiled by Vela {found.version} for {found.accelerator} ({found.settings or 'its defaults'}): the cycles are "
            "Vela's own estimate, the arena is the SRAM that it plans. Nothing was run.")
