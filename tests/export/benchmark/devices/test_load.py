"""What else a device did while it was measured."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from device_lab.phone import SimulatedPhone
from device_lab.waiting import PATIENCE, wait

from mnv3_tf.export.benchmark.devices.bench import benchmark_device, open_target
from mnv3_tf.export.benchmark.devices.other_load import OtherLoad, ProcessTimes, load_flags, other_load, parse_processes
from mnv3_tf.export.benchmark.devices.state import STATE_SCRIPT, parse_state
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
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
def test_the_script_in_a_real_shell(shell: str, tmp_path: Path) -> None:
    """Over this machine's own processes: one that works, and none that the script itself started."""
    for program, name in (("dash", "greedy (one)"), ("sed", "own sed")):
        shutil.copy(shutil.which(program) or "/bin/sh", tmp_path / name)
    (tmp_path / "sed").write_text(f"#!/bin/sh\nexec '{tmp_path}/own sed' \"$@\"\n")
    (tmp_path / "sed").chmod(0o755)

    def ask() -> ProcessTimes:
        done = subprocess.run([shell, "-c", STATE_SCRIPT], capture_output=True, text=True, timeout=PATIENCE,
                              env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
        found = parse_state(done.stdout).processes
        assert found is not None
        return found

    with subprocess.Popen([str(tmp_path / "greedy (one)"), "-c", "while :; do :; done"]) as busy:
        try:
            asked = [ask()]

            def worked() -> bool:
                asked.append(ask())
                return asked[-1].used_s[busy.pid][1] >= asked[0].used_s[busy.pid][1] + 0.1

            assert wait(worked)
        finally:
            busy.kill()
    before, after = asked[0], asked[-1]
    assert 1 in after.used_s and "own sed" not in {name for name, _ in after.used_s.values()}
    assert after.used_s[busy.pid][0] == "greedy (one)"
    found = other_load(before, replace(after, used_s={busy.pid: after.used_s[busy.pid]}))
    used = after.used_s[busy.pid][1] - before.used_s[busy.pid][1]
    assert found and found.cores == pytest.approx(used / (after.uptime_s - before.uptime_s)) and found.cores > 0


def test_a_row_says_who_was_busy(phone: Callable[..., SimulatedPhone], files: dict[str, Path]) -> None:
    """With every command a second passes on the phone, of which a program takes half."""
    pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
    settings = BenchmarkSettings(runs=8, min_seconds=0, rounds=2, warmup=1, cool_down=0)
    sim, busy = phone(), "greedy (one)"
    sim.set_state_later([(second, {"uptime": 100.0 + second, "processes": {busy: 0.5 * second}}) for second in range(60)])
    row, = benchmark_device(open_target(f"adb:{sim.serial}"), [files["plain_int8"]], settings, Silent()).rows
    flag, = [flag for flag in row["flags"] if flag.startswith("busy device: other processes took")]
    assert busy in flag and row["state_before"]["load_average"] is not None
    first, *others = row["states"]
    assert first["other_load"] is None and all(point["load_average"] is not None for point in row["states"])
    assert others and all(point["other_load"]["busiest"] == {busy: 0.5} for point in others)
    # Names only: no arguments, no folders, no numbers of processes.
    text = json.dumps(row["states"]) + json.dumps(row["state_before"])
    assert "9000000" not in text and "processes" not in text and "/tmp" not in text
