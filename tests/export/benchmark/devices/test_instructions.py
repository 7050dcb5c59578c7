"""Instructions on an emulated ARM processor: counted for real where there is an emulator."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from device_lab.waiting import PATIENCE, wait

from mnv3_tf.cli.main import main
from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark import instructions
from mnv3_tf.export.benchmark.devices import emulator
from mnv3_tf.export.benchmark.devices.emulator import PROCESSORS, EmulatedArm, processor
from mnv3_tf.export.benchmark.instructions import count_instructions
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
from mnv3_tf.export.benchmark.runners import runner_build
from mnv3_tf.progress import Silent

pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
needs_qemu = pytest.mark.skipif(shutil.which("qemu-aarch64") is None,
                                reason="NOT TESTED, no emulator of 64-bit ARM: apt-get install qemu-user")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made; nothing may be left there."""
    folder = tmp_path / "temporary, of this test"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@needs_qemu
def test_the_command(files: dict[str, Path], tmp_path: Path, temporary: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", files["plain_int8"], files["swish_int8"], "--target", "arm,arm:cortex-a53", "--profile",
             "--out", tmp_path / "out", "--gate", "instructions < 1e6 @ arm"]
    assert command(*words, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    rows: list[dict[str, Any]] = found["rows"]
    schema = json.loads((resources.files("mnv3_tf.export.benchmark") / "schema.json").read_text())
    for row in rows:
        jsonschema.validate(row, schema)
        assert row["median_ms"] is None and row["samples_ms"] is None and row["architecture"] == "aarch64", row
        total = sum(op["instructions"] for op in row["ops"])
        assert total == row["profile"]["sum_instructions"] and 0.8 * row["instructions"] < total <= row["instructions"]
        assert "mean_ms" not in row["ops"][0] and sum(op["share"] for op in row["ops"]) == pytest.approx(1)
    assert [(Path(row["file"]).stem, row["target"], row["partitions"]) for row in rows] == [
        ("plain_int8", "arm:cortex-a76", 1), ("swish_int8", "arm:cortex-a76", 3),
        ("plain_int8", "arm:cortex-a53", 1), ("swish_int8", "arm:cortex-a53", 3)]
    # A processor without integer dot products executes none, and needs more instructions for the same file.
    assert rows[0]["dot_products"] > 0 == rows[2]["dot_products"] and rows[0]["instructions"] < rows[2]["instructions"]
    names = [(op["name"], op["kind"]) for op in rows[0]["ops"]]
    assert ("stem/1", "CONV_2D") in names and "DEPTHWISE_CONV_2D" in {kind for _, kind in names}
    assert {entry["verdict"] for entry in found["device_comparisons"]} <= {"baseline", "fewer instructions", "more instructions"}
    assert command("compare", tmp_path / "out", tmp_path / "out") == 0
    assert "plain_int8.tflite on emulated Cortex-A76, 1 thread: 1.00 as many instructions" in capfd.readouterr().out
    # Again, in words: the same to the last instruction.
    assert command(*words[:2], "--target", "arm", "--gate", "instructions < 1e3 @ arm") == 3
    printed, errors = capfd.readouterr()
    assert f"plain_int8.tflite on emulated Cortex-A76, 1 thread has {rows[0]['instructions']}." in errors
    assert f"{rows[0]['instructions'] / 1e6:.3f}" in printed and "They are not time" in printed and "median ms" not in printed


@needs_qemu
def test_a_file_that_the_runner_refuses(files: dict[str, Path], temporary: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("benchmark", files["open_batch"], "--target", "arm") == 1
    assert "emulated Cortex-A76: open_batch.tflite: the model leaves a size open" in capfd.readouterr().err


_LOOPS = 100_000
_KNOWN_PROGRAM = f"""
__asm__(".global _start\\n"
        "_start: ldr w0, =({_LOOPS})\\n"
        "1: sdot v0.4s, v1.16b, v2.16b\\n"
        "   sdot v0.4s, v1.16b, v2.4b[1]\\n"
        "   subs w0, w0, #1\\n"
        "   b.ne 1b\\n"
        "   mov x0, #0\\n"
        "   mov x8, #93\\n"
        "   svc #0\\n");
"""


@needs_qemu
def test_a_program_whose_instructions_are_known(tmp_path: Path) -> None:
    program = tmp_path / "known"
    subprocess.run([sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-mcpu=cortex_a76", "-nostdlib",
                    "-static", "-x", "c", "-", "-o", str(program)], input=_KNOWN_PROGRAM.encode(), check=True)
    device = EmulatedArm(processor("cortex-a76"), str(tmp_path), counting=True)
    device.count_with_plugin([str(program)])
    content = (tmp_path / "counter").read_bytes()
    assert [int.from_bytes(content[start:start + 8], sys.byteorder) for start in (0, 8)] == [4 * _LOOPS + 4, 2 * _LOOPS]
    # The other processor has no such instruction.
    other = EmulatedArm(processor("cortex-a53"), str(tmp_path))
    assert subprocess.run([*other.through, str(program)], capture_output=True).returncode == -signal.SIGILL


@needs_qemu
def test_an_interrupted_count_leaves_nothing(files: dict[str, Path], temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes while the emulator runs for what would take hours."""
    monkeypatch.setattr(instructions, "_RUNS", 900_000)
    started: list[int] = []

    def stop() -> None:
        ends = time.monotonic() + PATIENCE
        while not started and time.monotonic() < ends:
            started.extend(int(path.read_text()) for path in temporary.glob("*/*/*.pid") if path.read_text().strip())
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        count_instructions("arm", [files["plain_int8"]], BenchmarkSettings(), Silent())
    watcher.join()
    command_line = Path(f"/proc/{started[0]}/cmdline")  # empty once it has ended, where nobody has asked for its result yet
    assert wait(lambda: not command_line.exists() or not command_line.read_bytes())


@pytest.mark.parametrize(("options", "words"), [
    (["--target", "arm:cortex-a77"], "unknown processor; did you mean 'cortex-a76'? Give cortex-a76 or cortex-a53."),
    (["--target", "arm", "--threads", "1,2"], "counts with one thread"),
    (["--target", "arms"], "'arms' is not a target: give host, adb, adb:SERIAL, ssh:HOST, arm")])
def test_what_cannot_be_counted(options: list[str], words: str, files: dict[str, Path], temporary: Path,
                                capfd: pytest.CaptureFixture[str]) -> None:
    assert command("benchmark", files["plain_int8"], *options) == InputError.exit_code
    assert words in capfd.readouterr().err


def test_a_missing_tool_is_named_with_the_remedy(files: dict[str, Path], tmp_path: Path, temporary: Path,
                                                 monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured; each in one line."""
    programs = tmp_path / "programs"
    programs.mkdir()

    def said() -> str:
        assert command("benchmark", files["plain_int8"], "--target", "host,arm") == 4
        printed, errors = capfd.readouterr()
        assert printed == "" and errors.count("\n") == 1 and errors.startswith("Error: "), errors
        return errors

    monkeypatch.setenv("PATH", str(programs))
    assert "apt install qemu-user" in said()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    (programs / "qemu-aarch64").write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'version 3.1' || echo 'no -plugin' >&2\n")
    (programs / "qemu-aarch64").chmod(0o755)
    monkeypatch.setattr(emulator, "_INTERFACES", (1,))
    assert "(qemu 3.1) loads no plugin to count with: no -plugin. Take one that does" in said()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runner_build.util, "find_spec", lambda name: None)
    assert "pip install ziglang" in said()


def test_a_processor_is_described_by_what_it_has() -> None:
    assert {name: "asimddp" in found.cpuinfo().split() for name, found in PROCESSORS.items()} == {
        "cortex-a76": True, "cortex-a53": False}
    assert processor("") is PROCESSORS["cortex-a76"]
