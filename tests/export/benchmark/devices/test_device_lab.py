"""The test phones themselves: under the real adb client they behave as real devices do."""

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from device_lab.adb_client import AdbClient, find_clients, phones, private_server
from device_lab.phone import SimulatedPhone
from device_lab.shell import can_remount
from device_lab.waiting import PATIENCE, wait

TMP = "/data/local/tmp"
ODD = "a b'\"$x.bin"
Make = Callable[..., SimulatedPhone]
remounts = pytest.mark.skipif(not can_remount(), reason="mount namespaces are not allowed here: no read-only and no-exec phones")


@pytest.fixture(scope="module", params=find_clients() or [None], ids=lambda path: "none" if path is None else path.parent.name)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbClient]:
    """Each adb client of this machine."""
    if request.param is None:
        pytest.skip("there is no adb client here, so nothing of the test phones is tested: pip install adbutils")
    with private_server(request.param, tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture
def make(client: AdbClient, tmp_path: Path) -> Iterator[Make]:
    """Makes phones, connected."""
    with phones(client, tmp_path) as one:
        yield one


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a megabyte, with the phone's line ends and zeros in it."""
    path = tmp_path_factory.mktemp("big") / ODD
    path.write_bytes(b"\r\n\0\n" * 4096 + random.Random(0).randbytes(1_000_000))
    return path


def push(client: AdbClient, phone: SimulatedPhone, file: Path, name: str = f"{TMP}/x") -> tuple[int, str]:
    """Exit code and text, whichever stream it came on: old clients complain on the standard output."""
    done = client.run("-s", phone.serial, "push", str(file), name)
    return done.returncode, done.stdout + done.stderr


def shell(client: AdbClient, phone: SimulatedPhone, script: str) -> tuple[int, str, str]:
    done = client.run("-s", phone.serial, "shell", script)
    return done.returncode, done.stdout, done.stderr


def check_files(client: AdbClient, phone: SimulatedPhone, big: Path, tmp_path: Path) -> None:
    assert push(client, phone, big, f"{TMP}/{ODD}")[0] == 0
    assert (phone.root / "data/local/tmp" / ODD).read_bytes() == big.read_bytes()
    assert client.run("-s", phone.serial, "pull", f"{TMP}/{ODD}", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    listed = client.run("-s", phone.serial, "ls", TMP).stdout
    assert f"{big.stat().st_size:08x}" in listed and ODD in listed
    missing = client.run("-s", phone.serial, "pull", f"{TMP}/none", str(tmp_path / "none"))
    assert missing.returncode == 1 and f"remote object '{TMP}/none'" in missing.stdout + missing.stderr


@pytest.mark.parametrize("shell_v2", [True, False])
def test_files_come_back_to_the_byte(shell_v2: bool, client: AdbClient, make: Make, big: Path, tmp_path: Path) -> None:
    phone = make(shell_v2=shell_v2)
    check_files(client, phone, big, tmp_path)
    assert phone.files() == [ODD]
    folder = tmp_path / "folder" / "inner"
    folder.mkdir(parents=True)
    (folder / "empty").touch()
    assert push(client, phone, tmp_path / "folder", f"{TMP}/copy")[0] == 0
    assert "copy/inner/empty" in phone.files()


def test_exit_codes_and_streams(client: AdbClient, make: Make) -> None:
    phone = make()
    assert shell(client, phone, "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")
    assert shell(client, phone, "no-such-command") == (127, "", "/system/bin/sh: no-such-command: inaccessible or not found\n")
    assert shell(client, phone, f"cd {TMP}; pwd; echo *") == (0, f"{TMP}\n*\n", "")
    code, output, _ = shell(client, phone, f"ls {phone.root}/data")  # a path of this machine is printed as the phone's
    assert code == 0 and "local" in output
    terminal = client.run("-s", phone.serial, "shell", "-tt", "tty; exit 3")
    assert terminal.returncode == 3 and terminal.stdout.startswith("/dev/pts/") and terminal.stdout.endswith("\r\n")
    raw = client.run("-s", phone.serial, "exec-out", r"printf 'a\nb'")
    assert (raw.returncode, raw.stdout) == (0, "a\nb")
    typed = subprocess.run([client.program, "-s", phone.serial, "shell", "cat; exit 5"], input=b"typed\n", capture_output=True,
                           env=dict(client.environment), timeout=PATIENCE)
    assert (typed.returncode, typed.stdout) == (5, b"typed\n")


def test_an_old_phone_tells_no_exit_code(client: AdbClient, make: Make) -> None:
    phone = make(shell_v2=False)
    assert shell(client, phone, "echo out; echo err >&2; exit 7") == (0, "out\r\nerr\r\n", "")
    assert client.run("-s", phone.serial, "exec-out", "echo out; exit 7").stdout == "out\n"


def test_what_the_phone_says_of_itself(client: AdbClient, make: Make) -> None:
    phone = make(properties={"ro.product.cpu.abi": "arm64-v8a", "ro.serialno": "ABC123"}, governor="performance",
                 clusters=((0, 2, 1800000, 400), (2, 2, 2400000, 1024)))
    cpu = "/sys/devices/system/cpu"
    script = (f"getprop ro.product.cpu.abi; getprop ro.serialno; cat {cpu}/online {cpu}/cpu3/cpufreq/scaling_governor; nproc; "
              "dumpsys cpuinfo | sed q; settings put global low_power 1; settings get global low_power; settings get global x; "
              "svc power stayon true; taskset c true; taskset 100 true; echo $?")
    code, output, errors = shell(client, phone, script)
    assert output.splitlines() == ["arm64-v8a", "ABC123", "0-3", "performance", "4", "Load: 1.52 / 1.31 / 1.2", "1", "null", "1"]
    assert code == 0 and errors == "taskset: bad mask: Invalid argument\n"
    assert {"taskset c", "svc power stayon true", "settings put global low_power 1"} <= set(phone.calls().splitlines())


def test_heat_that_changes_while_it_runs(client: AdbClient, make: Make) -> None:
    phone = make(governor="performance")
    phone.set_state(level=9, battery_c=41.5, charging=False, highest_khz={7: 1400000})
    ask = ("dumpsys thermalservice | grep Status:; cat /sys/class/thermal/thermal_zone0/temp; dumpsys battery | "
           "grep -E 'level|temperature|status'; cat /sys/devices/system/cpu/cpu7/cpufreq/scaling_max_freq")
    rest = "temperature: 415 1400000"
    first, hot, last = (f"Thermal Status: {state} {rest}" for state in (
        "0 41000 status: 3 level: 9", "3 77000 status: 3 level: 9", "0 50000 status: 3 level: 8"))
    assert " ".join(shell(client, phone, ask)[1].split()) == first
    phone.set_state_later([(1, {"cpu": 77.0, "status": 3}), (3, {"cpu": 50.0, "status": 0, "level": 8})])
    assert [" ".join(shell(client, phone, ask)[1].split()) for _ in range(5)] == [first, hot, hot, last, last]
    assert shell(client, phone, "cat /sys/devices/system/cpu/cpu7/cpufreq/scaling_governor")[1] == "performance\n"


def test_unauthorized(client: AdbClient, make: Make, big: Path) -> None:
    phone = make(unauthorized=True)
    assert "failed to authenticate to" in client.run("connect", phone.serial).stdout or client.state(phone.serial)
    assert client.wait_for(phone.serial, "unauthorized") == "unauthorized"
    code, _, errors = shell(client, phone, "true")
    assert code == 1 and "device unauthorized." in errors and "confirmation dialog" in errors
    code, text = push(client, phone, big)
    assert code == 1 and "failed to get feature set: device unauthorized." in text and phone.files() == []


def test_offline_at_once_and_later(client: AdbClient, make: Make, big: Path) -> None:
    silent = make(mute=True)
    assert client.wait_for(silent.serial, "offline") == "offline"
    code, _, errors = shell(client, silent, "true")
    assert code == 1 and errors.endswith("device offline\n")
    assert push(client, silent, big)[1] == "adb: error: failed to get feature set: device offline\n"
    phone = make()
    assert client.state(phone.serial) == "device"
    phone.set_faults(mute=True)
    phone.pull_cable()
    assert client.wait_for(phone.serial, "offline") == "offline"
    phone.set_faults()
    phone.pull_cable()
    assert client.wait_for(phone.serial, "device") == "device"  # the server reconnects by itself


def test_more_than_one(client: AdbClient, make: Make) -> None:
    make()
    make()
    done = client.run("shell", "true")
    assert done.returncode == 1 and done.stderr.endswith("more than one device/emulator\n")


FULL, READ_ONLY = "remote write failed: No space left on device", "remote couldn't create file: Read-only file system"


@pytest.mark.parametrize(("faults", "words"), [
    ({"disk_full": 300_000}, FULL), ({"read_only": True}, READ_ONLY),
    pytest.param({"read_only_disk": True}, READ_ONLY, marks=remounts)])
def test_pushes_that_fail(faults: dict[str, object], words: str, client: AdbClient, make: Make, big: Path) -> None:
    phone = make(**faults)
    code, text = push(client, phone, big)
    assert code == 1 and words in text and phone.files() == []
    phone.set_faults()
    assert push(client, phone, big)[0] == 0


@remounts
def test_read_only_for_commands_too(client: AdbClient, make: Make) -> None:
    phone = make(read_only_disk=True)
    code, _, errors = shell(client, phone, f"mkdir {TMP}/new")
    assert code == 1 and "Read-only file system" in errors and phone.files() == []


@remounts
@pytest.mark.parametrize(("fault", "words"), [
    ("no_exec", "can't execute: Permission denied"), ("wrong_bits", "not executable: 64-bit ELF file")])
def test_programs_that_cannot_be_executed(fault: str, words: str, client: AdbClient, make: Make) -> None:
    phone = make()
    assert push(client, phone, Path(shutil.which("true") or "/bin/true"), f"{TMP}/true")[0] == 0
    assert shell(client, phone, f"{TMP}/true")[0] == 0
    phone.set_faults(**{fault: True})
    for command in (f"{TMP}/true", f"taskset 1 {TMP}/true", f"sh -c 'exec \"$@\"' sh {TMP}/true"):
        assert shell(client, phone, command) == (126, "", f"/system/bin/sh: {TMP}/true: {words}\n")


def test_killed_in_the_middle_of_a_push(client: AdbClient, make: Make, big: Path) -> None:
    phone = make(drop_after_bytes=200_000)
    code, text = push(client, phone, big)
    assert code == 1 and ("failed to read copy response: EOF" in text or "couldn't read from device" in text)
    assert (phone.root / "data/local/tmp/x").stat().st_size < big.stat().st_size  # a part is left
    phone.set_faults()
    assert client.wait_for(phone.serial, "device") == "device" and push(client, phone, big)[0] == 0


def test_the_cable_is_pulled(client: AdbClient, make: Make) -> None:
    phone = make(drop_during=["sleep", "begun"])
    code, output, errors = shell(client, phone, "echo begun; sleep 1000; echo ended")
    # Client 36 ends with 255, client 29 with 0: an exit code of 0 without the last line is no success.
    assert code in (0, 255) and (output, errors) == ("begun\n", "")
    phone.set_faults()
    assert client.wait_for(phone.serial, "device") == "device"
    few = make(drop_after_opens=2)
    assert [shell(client, few, "echo yes")[1] for _ in range(3)] == ["yes\n", "yes\n", ""]


def test_killed_for_memory(client: AdbClient, make: Make) -> None:
    phone = make(kill=["sleep", "sleep"])
    code, output, errors = shell(client, phone, "sleep 1000; echo code $?")
    assert (code, output) == (0, "code 137\n") and "Killed" in errors
    assert shell(client, phone, "exec sleep 1000") == (137, "", "")
    assert wait(lambda: not phone.processes())


@pytest.mark.parametrize("shell_v2", [True, False])
def test_recorded_answers(shell_v2: bool, client: AdbClient, make: Make, tmp_path: Path) -> None:
    (tmp_path / "a log.txt").write_text("Inference timings in us: Init: 9\n")
    phone = make(shell_v2=shell_v2, answers=[["benchmark_model", str(tmp_path / "a log.txt"), 3]])
    code, output, _ = shell(client, phone, f"{TMP}/benchmark_model --graph=x\necho EXIT:$?")
    assert code == 0 and output.split() == ["Inference", "timings", "in", "us:", "Init:", "9", "EXIT:3"]
    assert shell(client, phone, f"{TMP}/benchmark_model")[0] == (3 if shell_v2 else 0)
    assert shell(client, phone, "echo other")[1].strip() == "other"


def test_slow(client: AdbClient, make: Make, big: Path) -> None:
    phone = make(bytes_per_second=50_000_000, delay=0.01)
    assert push(client, phone, big)[0] == 0
    pushed = phone.waits()
    assert sum(pushed) == pytest.approx(big.stat().st_size / 50_000_000)
    assert shell(client, phone, "true")[0] == 0
    assert phone.waits() == [*pushed, 0.01]


# How a command is started, the command, and whether it goes on when the client is killed. Taken from a real adbd.
SURVIVAL = (("shell", "BEGIN; WAIT; END", False), ("shell", "BEGIN; sh -c 'WAIT; END'; true", True),
            ("shell", "BEGIN; exec sh -c 'WAIT; END'", False), ("shell", "trap '' HUP; BEGIN; WAIT; END", True),
            ("shell", "trap 'END' HUP; BEGIN; WAIT", True), ("exec-out", "BEGIN; WAIT; END", False),
            ("shell -tt", "BEGIN; sh -c 'WAIT; END'; true", False))
# Before there was shell_v2 every shell command had a terminal.
OLD_SURVIVAL = (("shell", "BEGIN; sh -c 'WAIT; END'; true", False), ("exec-out", "BEGIN; WAIT; END", False))


def check_survival(client: AdbClient, phone: SimulatedPhone, table: tuple[tuple[str, str, bool], ...]) -> None:
    """All at once: each leaves marks of its own, and goes on only when all clients have been killed and those that end have.

    Each waits for a line from a pipe of the phone, and says nothing of signals meanwhile: nobody would read it.
    """
    folder = phone.root / "data/local/tmp"
    os.mkfifo(folder / "go")
    children = []
    for number, (how, script, _) in enumerate(table):
        text = script.replace("BEGIN", f"touch {TMP}/begun{number}").replace("END", f"touch {TMP}/ended{number}")
        text = text.replace("WAIT", f"echo $$ > {TMP}/waits{number}; {{ read line < {TMP}/go; }} 2>/dev/null")
        children.append(client.start("-s", phone.serial, *how.split(), text))
    for number in range(len(table)):
        mark = folder / f"waits{number}"
        assert wait(lambda mark=mark: mark.exists() and mark.read_text().endswith("\n"))  # type: ignore[misc]
        assert (folder / f"begun{number}").exists()
    for child in children:
        child.kill()
        child.communicate(timeout=PATIENCE)
    ending = " ".join(f"{TMP}/waits{number}" for number, (_, _, survives) in enumerate(table) if not survives)
    alive = f"for f in {ending}; do grep -q ') [^Z]' /proc/$(cat $f)/stat 2>/dev/null && echo alive; done"
    assert wait(lambda: "alive" not in shell(client, phone, alive)[1])
    with open(folder / "go", "rb+", buffering=0) as go:  # open at both ends, so that nobody waits for the other
        go.write(b"\n" * len(table))
        for number, (how, script, survives) in enumerate(table):
            assert not survives or wait((folder / f"ended{number}").exists), (how, script)
    for number, (how, script, survives) in enumerate(table):
        assert (folder / f"ended{number}").exists() == survives, (how, script)
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.slow
def test_when_the_client_is_killed(client: AdbClient, make: Make) -> None:
    phone = make()
    check_survival(client, phone, SURVIVAL)
    assert wait(lambda: not phone.processes())
    check_survival(client, make(shell_v2=False), OLD_SURVIVAL)


def test_nothing_is_left_when_it_is_switched_off(client: AdbClient, make: Make) -> None:
    phone = make()
    child = client.start("-s", phone.serial, "shell", "sleep 1000")
    assert wait(lambda: len(phone.processes()) > 0)
    phone.close()
    assert wait(lambda: not phone.processes())
    child.kill()
    child.communicate(timeout=PATIENCE)
    assert client.wait_for(phone.serial, "offline", "") in ("offline", "")


@pytest.mark.slow
def test_a_real_adbd(client: AdbClient, real_phone: SimulatedPhone, big: Path, tmp_path: Path) -> None:
    """The same things that the simulated phone was checked for."""
    client.run("connect", real_phone.serial)
    assert client.wait_for(real_phone.serial, "device") == "device"
    assert shell(client, real_phone, "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")
    assert client.run("-s", real_phone.serial, "shell", "-tt", "tty").stdout.startswith("/dev/pts/")
    check_files(client, real_phone, big, tmp_path)
    assert push(client, real_phone, Path(shutil.which("true") or "/bin/true"), f"{TMP}/true")[0] == 0
    assert os.access(real_phone.root / "data/local/tmp/true", os.X_OK)
    assert shell(client, real_phone, f"taskset 1 {TMP}/true && getprop ro.product.model") == (0, "Sim Phone\n", "")
    assert shell(client, real_phone, "kill -9 $$")[0] == 137
    check_survival(client, real_phone, SURVIVAL)
    client.run("disconnect", real_phone.serial)
