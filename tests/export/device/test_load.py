"""What else a device did while it was measured."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from device_lab.phone import SimulatedPhone

from mnv3_tf.export.device.bench import DeviceSettings, benchmark_device, open_target
from mnv3_tf.export.device.load import OtherLoad, load_flags, other_load, parse_processes
from mnv3_tf.export.device.state import STATE_SCRIPT, parse_state
from mnv3_tf.progress import Silent

BEFORE = """100.00 350.12
900 800
1 0 100 50 init
200 1 1000 0 system_server
300 2 10 10 kworker/0:1-events
301 2 10 10 kworker/1:2
400 1 5 5 a (strange) name
800 1 9999 0 adbd
900 800 1 1 sh
"""
# Ten seconds later: 3 s of system_server, 0.6 s of both workers, a program that is new, one whose number another got, adbd's own.
AFTER = """110.00 390.0
901 800
1 0 100 50 init
200 1 1200 100 system_server
300 2 30 20 kworker/0:1-events
301 2 30 20 kworker/1:2
400 1 7 0 other
500 1 100 0 new.app
800 1 99999 0 adbd
901 800 1 1 sh
902 901 500 500 sed
"""


def test_what_was_used_between_two_moments() -> None:
    for before, after in ((BEFORE, AFTER), ("\n" + BEFORE.replace("\n", "\r\n"), AFTER)):
        found = other_load(parse_processes(before.replace("\r", "")), parse_processes(after))
        assert found is not None and found.cores == pytest.approx(0.3 + 0.06 + 0.007 + 0.1)
        assert [name for name, _ in found.busiest] == ["system_server", "new.app", "kworker"]
        assert [cores for _, cores in found.busiest] == pytest.approx([0.3, 0.1, 0.06])
        assert found.to_dict() == {"cores": 0.467, "busiest": {"system_server": 0.3, "new.app": 0.1, "kworker": 0.06}}


@pytest.mark.parametrize("text", ["", "100.0\n1 2\n", "x\n8 9\n1 0 1 1 init\n", "100.0\n8 9\n700 1 1 1 mine\n"])
def test_a_device_that_does_not_say_it(text: str) -> None:
    """The last shows no process of other users, so nothing is known of them."""
    assert parse_processes(text) is None and other_load(parse_processes(BEFORE), parse_processes(text)) is None
    assert other_load(parse_processes(AFTER), parse_processes(BEFORE)) is None  # restarted meanwhile


def test_flags_are_relative_to_the_cores_that_were_used() -> None:
    load = OtherLoad(0.25, (("system_server", 0.2),))
    assert load_flags(load, 4) == load_flags(None, 1) == load_flags(OtherLoad(0.1, ()), 1) == []
    assert load_flags(load, 1) == ["busy device: other processes took 0.25 cores (system_server 0.20) during the "
                                   "measurement, and the row used 1"]


@pytest.mark.parametrize("shell", [shell for shell in ("dash", "bash", "mksh", "ksh") if shutil.which(shell)])
def test_the_script_in_a_real_shell(shell: str, busy: str) -> None:
    def ask() -> str:
        return subprocess.run([shell, "-c", STATE_SCRIPT], capture_output=True, text=True, timeout=20).stdout

    before = parse_state(ask()).processes
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0.5)"], check=True)
    after = parse_state(ask()).processes
    assert before and after and 1 in after.used_s and "sed" not in {name for name, _ in after.used_s.values()}
    found = other_load(before, after)
    assert found and dict(found.busiest).get(busy, 0) > 0.1


@pytest.fixture
def busy(tmp_path: Path) -> "Callable[[], str]":
    """The name of a process that takes as much of a core as it gets."""
    program = tmp_path / "greedy (one)"
    shutil.copy(shutil.which("dash") or "/bin/sh", program)
    child = subprocess.Popen([str(program), "-c", "while :; do :; done"])
    yield "greedy (one)"  # type: ignore[misc]
    child.kill()
    child.wait()


def test_a_row_says_who_was_busy(phone: Callable[..., SimulatedPhone], busy: str, files: dict[str, Path]) -> None:
    pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
    settings = DeviceSettings(runs=8, min_seconds=0.2, rounds=2, warmup=1, cool_down=0)
    row, = benchmark_device(open_target(f"adb:{phone().serial}"), [files["plain_int8"]], settings, Silent()).rows
    flag, = [flag for flag in row["flags"] if flag.startswith("busy device: other processes took")]
    assert busy in flag and row["state_before"]["load_average"] is not None
    first, *others = row["states"]
    assert first["other_load"] is None and all(point["load_average"] is not None for point in row["states"])
    assert all(point["other_load"]["busiest"][busy] > 0.1 for point in others)
    # Names only: no arguments, no folders, no numbers of processes.
    text = json.dumps(row["states"]) + json.dumps(row["state_before"])
    assert "while :" not in text and "processes" not in text and "/tmp" not in text
