"""The tools of microcontrollers and of Arm's NPU for them, run for real: tflite-micro, and Vela, the compiler for Ethos-U."""

import csv
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from mnv3_tf.child import Child, ChildFailed
from mnv3_tf.errors import InputError, KitError, NoDeviceError
from mnv3_tf.export.benchmark.devices.session import interrupts
from mnv3_tf.export.benchmark.runners.operators import layer_of
from mnv3_tf.text import counted, few

MICRO, ETHOS_U = "micro", "ethos-u"
ACCELERATOR = "ethos-u55-128"
# Random inputs whose outputs are compared.
_INPUTS = 4
_SECONDS = 600
# Operators that a line names.
_SHOWN = 3
_UNSUPPORTED = re.compile(r"^Warning \([^)]*\) operator: (\w+), ofm: '([^']*)'\s*(?:- )?Reason: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class MicroRun:
    """What tflite-micro makes of a file.

    Attributes:
        version: of tflite-micro.
        refused: why it does not run it, or "".
        differs: how its outputs differ from the reference kernels', or "".
        arena_bytes: memory for tensors and the interpreter's own structures, on this 64-bit machine.
    """

    version: str
    refused: str = ""
    differs: str = ""
    arena_bytes: int | None = None

    def failures(self) -> list[str]:
        """What keeps the file from running there, a line each."""
        return [line for line in (f"tflite-micro does not run it: {self.refused}" if self.refused else "", self.differs) if line]

    def sentence(self) -> str:
        """What was found, in words."""
        return f"tflite-micro {self.version}: " + ("; ".join(self.failures()) or "runs, outputs as the reference kernels' on "
                                                   f"{_INPUTS} random inputs, arena of {self.arena_bytes} bytes")


@dataclass(frozen=True)
class EthosURun:
    """What Vela makes of a file.

    Attributes:
        version: of Vela.
        accelerator: that it compiled for, such as "ethos-u55-128".
        refused: why it does not compile it, or "".
        outside: operators that stay on the CPU, with the reason.
        npu_operators, cpu_operators: how many there are after Vela has rewritten the graph.
        sram_bytes: the arena.
        estimated_cycles: Vela's own estimate; nothing was run.
        settings: of the system that it assumes.
    """

    version: str
    accelerator: str
    refused: str = ""
    outside: tuple[str, ...] = ()
    npu_operators: int = 0
    cpu_operators: int = 0
    sram_bytes: int | None = None
    estimated_cycles: int | None = None
    settings: str = ""

    def failures(self) -> list[str]:
        """What keeps the whole file from running on the NPU, a line each."""
        if self.refused:
            return [f"Vela does not compile it for {self.accelerator}: {self.refused}"]
        if not self.cpu_operators:
            return []
        named = few(self.outside, _SHOWN) or "not named"
        return [f"{counted(self.cpu_operators, 'operator')} not on {self.accelerator}: {named}"]

    def sentence(self) -> str:
        """What was found, in words."""
        total = self.npu_operators + self.cpu_operators
        return f"Vela {self.version}: " + ("; ".join(self.failures()) or
                                           f"{self.npu_operators} of {total} operators on {self.accelerator}")


def run_on_micro(content: bytes, name: str) -> MicroRun:
    """Runs a file with tflite-micro, and compares its outputs with the reference kernels', byte for byte where they are integers.

    Args:
        content: of a `.tflite` file with one input.
        name: what errors call it.

    Raises:
        NoDeviceError: tflite-micro is not installed.
        KitError: the reference kernels do not run the file, or tflite-micro does not say how large its arena is.
    """
    version = _version("tflite_micro", "tflite-micro")
    try:
        with Child(_micro_here, content, version) as child:
            return child.answer(_SECONDS)
    except subprocess.TimeoutExpired:
        return MicroRun(version, f"not finished within {_SECONDS} s")
    except ChildFailed as error:
        return MicroRun(version, f"it ended its process ({error.how}): {error.said or 'no message'}")
    except KitError as error:
        raise KitError(f"{name}: {error}") from error


def _micro_here(content: bytes, version: str) -> MicroRun:
    import numpy as np

    from mnv3_tf.tflite.runtime import LiteRTModel, captured_stderr

    runtime = import_module("tflite_micro").runtime
    model = LiteRTModel(content, reference_kernels=True, fix_batch=True)
    random, dtype = np.random.default_rng(0), np.dtype(model.input_dtype)
    pixels = random.integers(0, 256, (_INPUTS, *model.input_shape))
    given = pixels.astype(dtype) if dtype.kind == "f" else (pixels + np.iinfo(dtype).min).astype(dtype)
    expected = [model.run_raw(tensor) for tensor in given]
    found: list[Any] = []
    refused = ""
    with captured_stderr(lambda line: False) as said:
        try:
            interpreter = runtime.Interpreter.from_bytes(content)
            for tensor in given:
                interpreter.set_input(tensor, 0)
                interpreter.invoke()
                found.append(interpreter.get_output(0).copy())
            interpreter.print_allocations()
        except (RuntimeError, ValueError, TypeError) as error:
            refused = str(error)
    if refused:
        return MicroRun(version, read_refusal(said) or refused)
    arena = read_arena(said)
    if arena is None:
        raise KitError(f"tflite-micro {version} did not say how large its arena is. Install the version of the extra `micro`.")
    return MicroRun(version, "", compared(found, expected), arena)


def read_refusal(lines: list[str]) -> str:
    """Why tflite-micro does not run a file, from what it printed."""
    return " ".join(re.sub(r"^\S+\.cc(:\d+)?\s+", "", line.strip()) for line in lines)[:300].rstrip(".")


def read_arena(lines: list[str]) -> int | None:
    """The size of the arena, from what tflite-micro printed."""
    found = re.search(r"Arena allocation total (\d+) bytes", "\n".join(lines))
    return int(found[1]) if found else None


def compared(found: list[Any], expected: list[Any]) -> str:
    """How outputs differ, or ""; floats may differ by rounding."""
    import numpy as np

    ours, theirs = np.stack(found), np.stack(expected)
    if ours.dtype.kind == "f":
        return "" if np.allclose(ours, theirs, rtol=1e-4, atol=1e-4) else "its outputs are not the reference kernels'"
    wrong = int((ours != theirs).sum())
    return f"{wrong} of {ours.size} output bytes are not the reference kernels'" if wrong else ""


def compile_for_ethos_u(content: bytes, accelerator: str = ACCELERATOR) -> EthosURun:
    """Compiles a file with Vela, which says what runs on the NPU.

    Args:
        content: of a `.tflite` file.
        accelerator: as Vela calls it.

    Raises:
        NoDeviceError: Vela is not installed.
        InputError: it knows no such accelerator.
        KitError: it did not come to an end.
    """
    version = _version("ethosu", "ethos-u-vela")
    with interrupts(), tempfile.TemporaryDirectory(prefix="mnv3-vela-") as folder:
        (Path(folder) / "model.tflite").write_bytes(content)
        words = [sys.executable, "-m", "ethosu.vela", "model.tflite", "--accelerator-config", accelerator, "--output-dir",
                 folder, "--show-cpu-operations"]
        try:
            done = subprocess.run(words, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise KitError(f"Vela did not compile the file within {_SECONDS} s.") from None
        summary = next(Path(folder).glob("*_summary_*.csv"), None)
        table = summary.read_text(encoding="utf-8") if summary else ""
    if done.returncode == 2:
        choices = re.search(r"\(choose from (.*)\)", done.stderr)
        raise InputError(f"{ETHOS_U}:{accelerator}: Vela knows no such accelerator. "
                         f"Give one of {choices[1].replace(chr(39), '') if choices else 'those that vela --help lists'}.")
    return read_vela(done.stdout + done.stderr, table if done.returncode == 0 else "", accelerator, version)


def read_vela(printed: str, table: str, accelerator: str, version: str) -> EthosURun:
    """What Vela said.

    Args:
        printed: its output.
        table: the CSV file that it wrote; "" where it failed.
        accelerator, version: see :class:`EthosURun`.
    """
    row = next(csv.DictReader(table.splitlines()), None)
    if row is None:
        lines = [line.strip() for line in printed.partition("Compilation failed: ")[2].splitlines() or printed.splitlines()]
        reason = " ".join(line for line in lines if line)[:300].removeprefix("Error: ").rstrip(".")
        return EthosURun(version, accelerator, reason or "no message")
    number = {kind: int(count) for kind, count in re.findall(r"(CPU|NPU) operators = (\d+)", printed)}
    outside = tuple(f"{kind} of {layer_of(tensor)} ({reason.partition(' (')[0].strip().rstrip('.')})"
                    for kind, tensor, reason in _UNSUPPORTED.findall(printed))
    clock = float(row["core_clock"]) / 1e6
    return EthosURun(version, accelerator, "", outside, number.get("NPU", 0), number.get("CPU", 0),
                     round(1024 * float(row["sram_memory_used"])), round(float(row["cycles_total"])),
                     f"{row['system_config']}, {row['memory_mode']}, {clock:.0f} MHz")


def _version(module: str, package: str) -> str:
    if util.find_spec(module) is None:
        raise NoDeviceError(f"{package} is not installed, and this runs it. Install it: pip install {package} (the extra "
                            "`micro`).")
    return metadata.version(package)
