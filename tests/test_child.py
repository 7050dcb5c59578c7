"""A function in a process of its own: what comes of it, whatever becomes of the process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from device_lab.keeper import keep
from device_lab.waiting import PATIENCE

from mnv3_tf.child import Child, ChildFailed
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import read_json


def test_it_gives_what_the_function_returns() -> None:
    numbers = np.arange(1_000_000)
    with Child(np.negative, numbers) as child:
        np.testing.assert_array_equal(child.answer(PATIENCE), -numbers)


def test_what_the_function_prints_is_no_answer() -> None:
    with Child(print, "x" * 100_000) as child:
        assert child.answer(PATIENCE) is None


def test_an_error_of_the_kit_comes_through(tmp_path: Path) -> None:
    with Child(read_json, tmp_path / "none.json") as child, pytest.raises(InputError, match=r"none\.json: cannot be read"):
        child.answer(PATIENCE)


def test_a_process_that_ends_is_said() -> None:
    with Child(os.abort) as child, pytest.raises(ChildFailed, match="signal 6, SIGABRT: no message") as caught:
        child.answer(PATIENCE)
    assert caught.value.code == -signal.SIGABRT
    with Child(sys.exit, "a reason") as child, pytest.raises(ChildFailed, match="exit code 1: a reason"):
        child.answer(PATIENCE)
    with Child(os._exit, 0) as child, pytest.raises(ChildFailed, match="exit code 0: no message"):
        child.answer(PATIENCE)
    with Child(int, "x") as child, pytest.raises(ChildFailed, match="exit code 1: ValueError: invalid literal"):
        child.answer(PATIENCE)


def test_it_ends_with_the_block() -> None:
    with Child(time.sleep, 10 * PATIENCE) as child, pytest.raises(subprocess.TimeoutExpired):
        child.answer(0)
    assert child._process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends children with their parent")
def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    keep()
    script = ("import sys, time; from pathlib import Path; from mnv3_tf.child import Child\n"
              "child = Child(time.sleep, float(sys.argv[1]))\n"
              "print(child._process.pid, flush=True); time.sleep(float(sys.argv[1]))")
    with subprocess.Popen([sys.executable, "-c", script, str(10 * PATIENCE)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        parent.kill()
    end = time.monotonic() + PATIENCE
    while Path(f"/proc/{number}/stat").exists() and Path(f"/proc/{number}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_no_room_for_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(KitError, match=r"No space left on device.*TMPDIR"):
        Child(print)
