"""What Windows' and macOS' Python lack is not asked of them."""

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import asyncio, os, pathlib, signal, subprocess, sys, tempfile
for name in ("SIGHUP", "SIGKILL", "SIGUSR1"):
    delattr(signal, name)
signal.Signals._member_map_.pop("SIGHUP")
sys.modules.update(fcntl=None, resource=None, termios=None, pwd=None)
for name in ("sched_getaffinity", "getloadavg", "sysconf", "getuid"):
    delattr(os, name)
real = open
def opened(file, *given, **named):
    if str(file).startswith(("/dev/", "/proc/")):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return real(file, *given, **named)
import builtins; builtins.open = opened
os.devnull = sys.argv.pop(1)
"""


def on_another_host(body: str, tmp_path: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    """A program of this Python without what only Unix has."""
    (tmp_path / "nul").write_bytes(b"")
    return subprocess.run([sys.executable, "-c", WITHOUT + body, str(tmp_path / "nul"), *map(str, words)], capture_output=True,
                          text=True)


def test_every_module_of_the_devices_is_imported_there(tmp_path: Path) -> None:
    done = on_another_host("import mnv3_tf.export.benchmark.devices.bench, mnv3_tf.export.benchmark.host, mnv3_tf.interrupts\n"
                           "import mnv3_tf.weights.formats.read, mnv3_tf.export.doctor, mnv3_tf.machine\n"
                           "from mnv3_tf.export.benchmark.devices.session import interrupts\n"
                           "with interrupts(): print(mnv3_tf.machine.usable_cores() > 0)", tmp_path)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


@pytest.mark.parametrize("target", ["adb", "all"])
def test_a_phone_is_asked_for_there(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_file: Path) -> None:
    program = tmp_path / "adb"
    program.write_text("#!/bin/sh\nprintf 'List of devices attached\\n\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("ADB", str(program))
    done = on_another_host("from mnv3_tf.cli.main import main; main(sys.argv[1:])", tmp_path, "benchmark", small_file,
                           "--target", target, "--runs", 2, "--rounds", 1, "--min-seconds", 0)
    assert "Traceback" not in done.stderr and done.returncode == {"adb": 4, "all": 0}[target], done.stderr
    assert ("no Android device is connected" in done.stderr) == (target == "adb")


def test_a_runner_is_made_without_locks(tmp_path: Path) -> None:
    done = on_another_host("from pathlib import Path; from mnv3_tf.export.benchmark.runners.runner_build import _alone\n"
                           "with _alone(Path('nowhere')): print('made')", tmp_path)
    assert done.stdout == "made\n", done.stderr
