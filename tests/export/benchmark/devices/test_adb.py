"""What adb says, and what is made of it."""

import stat
from pathlib import Path

import pytest

from mnv3_tf.errors import InputError, NoDeviceError
from mnv3_tf.export.benchmark.devices.adb import Adb, AdbDevice, DeviceEntry, connect, find_adb, parse_devices
from mnv3_tf.export.benchmark.devices.remote import DeviceLost

LIST = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
R58M1234567            device usb:1-4 product:a52q model:SM_A525F device:a52q transport_id:3
192.168.1.20:5555      offline
emulator-5554\tunauthorized transport_id:7
0123456789ABCDEF       no permissions (missing udev rules?); see [http://developer.android.com/tools/device.html] usb:1-1
????????????           no permissions; see [http://developer.android.com/tools/device.html]
ZX1G22                 bootloader

"""


def test_the_list_of_devices_is_read_whatever_the_daemon_says() -> None:
    found = parse_devices(LIST)
    assert [(entry.serial, entry.state) for entry in found] == [
        ("R58M1234567", "device"), ("192.168.1.20:5555", "offline"), ("emulator-5554", "unauthorized"),
        ("0123456789ABCDEF", "no permissions"), ("????????????", "no permissions"), ("ZX1G22", "bootloader")]
    assert found[0].model == "SM A525F" and [entry.usable for entry in found] == [True] + [False] * 5
    assert parse_devices(LIST.replace("\n", "\r\n")) == found
    assert parse_devices("List of devices attached\n\n") == ()


@pytest.mark.parametrize(("line", "serial", "state", "model"), [
    ("adb-ZY22MGW35T-Z3uXXq._adb-tls-connect._tcp device product:v model:moto_g device:v transport_id:3",
     "adb-ZY22MGW35T-Z3uXXq._adb-tls-connect._tcp", "device", "moto g"),
    ("adb-ZY22MGW35T-Z3uXXq (2)._adb-tls-connect._tcp device product:v model:moto_g device:v transport_id:3",
     "adb-ZY22MGW35T-Z3uXXq (2)._adb-tls-connect._tcp", "device", "moto g"),
    ("adb-A-b (2)._adb-tls-connect._tcp.\toffline", "adb-A-b (2)._adb-tls-connect._tcp.", "offline", ""),
    ("adb-A-b (3)._adb-tls-connect._tcp unauthorized transport_id:12", "adb-A-b (3)._adb-tls-connect._tcp", "unauthorized", ""),
    ("adb-A-b (2)._adb-tls-connect._tcp no permissions (user in plugdev group; are your udev rules wrong?); see [http://x]",
     "adb-A-b (2)._adb-tls-connect._tcp", "no permissions", ""),
    ("[fe80::1%eth0]:5555     device product:p model:M device:d", "[fe80::1%eth0]:5555", "device", "M"),
    ("adb-device-x device usb:1-1 model:M", "adb-device-x", "device", "M"), ("R58 device 3-1 model:M", "R58", "device", "M"),
    ("my device (2) device transport_id:1", "my device (2)", "device", ""), ("R58                    host", "R58", "host", ""),
    ("R58 negotiating transport_id:2", "R58", "negotiating", "")])
def test_every_form_of_a_line(line: str, serial: str, state: str, model: str) -> None:
    assert parse_devices(f"List of devices attached\n{line}\n\n") == (DeviceEntry(serial, state, model),)


@pytest.mark.parametrize("line", [
    "* daemon started successfully *", "adb server version (40) doesn't match this client (41); killing...",
    "adb server is out of date.  killing...", "error: could not install *smartsocket* listener", ""])
def test_what_the_client_says_of_itself_is_no_device(line: str) -> None:
    assert parse_devices(f"{line}\nList of devices attached\n{line}\n") == ()


def test_a_phone_found_by_mdns_is_named_whole_to_adb(tmp_path: Path) -> None:
    serial = "adb-ZY22MGW35T-Z3uXXq (2)._adb-tls-connect._tcp"
    adb = client(tmp_path, f"""case $1 in
devices) printf 'List of devices attached\\n%s device model:M\\n' '{serial}';;
*) printf '%s\\nMNV3-EXIT:0\\n' "$2";; esac""")
    for wanted in (None, serial):
        assert adb.choose(wanted).serial == serial
    assert AdbDevice(adb, serial).check("true").strip() == serial


@pytest.mark.parametrize(("state", "words"), [
    ("unauthorized", "Allow USB debugging"), ("authorizing", "Allow USB debugging"), ("offline", "Reconnect the cable"),
    ("no permissions", "udev rules"), ("bootloader", "fastboot reboot"), ("recovery", "Start Android"), ("rescue", "'rescue'")])
def test_every_state_has_its_one_line(state: str, words: str) -> None:
    text = DeviceEntry("S1", state).problem()
    assert text.startswith("S1: ") and words in text and "\n" not in text


def client(folder: Path, script: str) -> Adb:
    """An adb client that does what a shell script does."""
    program = folder / "adb"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Adb(str(program))


def listing(folder: Path, *lines: str) -> Adb:
    return client(folder, "cat <<'E'\nList of devices attached\n" + "\n".join(lines) + "\nE")


def test_the_only_usable_device_is_taken(tmp_path: Path) -> None:
    adb = listing(tmp_path, "A offline", "B device model:Pixel_8", "C unauthorized")
    assert adb.choose().serial == "B" and adb.choose("B").model == "Pixel 8"
    with pytest.raises(NoDeviceError, match="A: is offline"):
        adb.choose("A")
    with pytest.raises(NoDeviceError, match=r"D: adb knows no such device .known: A, B, C"):
        adb.choose("D")


def test_several_and_none(tmp_path: Path) -> None:
    with pytest.raises(NoDeviceError, match=r"more than one device is connected: adb:A \(M1\), adb:B \(M2\)\. Name one"):
        listing(tmp_path, "A device model:M1", "B device model:M2").choose()
    with pytest.raises(NoDeviceError, match="no Android device is connected"):
        listing(tmp_path).choose()
    with pytest.raises(NoDeviceError, match=r"A: has not allowed this computer.* B: is offline"):
        listing(tmp_path, "A unauthorized", "B offline").choose()


def test_a_failing_client_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoDeviceError, match="adb devices failed: cannot bind"):
        client(tmp_path, "echo 'cannot bind' >&2; exit 1").devices()


def test_the_client_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADB", "ANDROID_HOME", "ANDROID_SDK_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(NoDeviceError, match=r"adb was not found. Install it .*apt install adb"):
        find_adb()
    tools = tmp_path / "sdk" / "platform-tools"
    tools.mkdir(parents=True)
    client(tools, "exit 0")
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path / "sdk"))
    assert find_adb() == str(tools / "adb")
    monkeypatch.setenv("ADB", "no-such-adb")
    with pytest.raises(NoDeviceError, match="environment variable ADB"):
        find_adb()


def test_exit_code_0_is_not_believed(tmp_path: Path) -> None:
    """Old adb exits with 0 when the device vanishes in the middle of a command."""
    device = AdbDevice(client(tmp_path, "echo half of it"), "S1")
    with pytest.raises(DeviceLost, match="S1: the connection broke during 'getprop'"):
        device.shell("getprop")


@pytest.mark.parametrize(("says", "error", "words"), [
    ("error: device offline", NoDeviceError, "is offline"), ("adb: device offline", NoDeviceError, "is offline"),
    ("error: device unauthorized.", NoDeviceError, "Allow USB debugging"),
    ("adb: device 'S1' not found", DeviceLost, "the device is gone"),
    ("error: device 'S1' not found", DeviceLost, "the device is gone"),
    ("error: insufficient permissions for device", NoDeviceError, "udev rules"),
    ("error: closed", DeviceLost, "the connection broke"), ("error: protocol fault (couldn't read status)", DeviceLost, "broke")])
def test_the_clients_errors_in_old_and_new_words(says: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    device = AdbDevice(client(tmp_path, f"cat >&2 <<'E'\n{says}\nE\nexit 1"), "S1")
    with pytest.raises(error, match=words):
        device.shell("true")


def test_exit_code_output_and_carriage_returns(tmp_path: Path) -> None:
    device = AdbDevice(client(tmp_path, r"printf 'one\r\ntwo\r\nMNV3-EXIT:3\r\n'"), "S1")
    answer = device.shell("x")
    assert (answer.output, answer.code) == ("one\ntwo", 3)


def test_a_mute_client_is_given_up(tmp_path: Path) -> None:
    device = AdbDevice(client(tmp_path, "exec sleep 1000"), "S1")
    with pytest.raises(DeviceLost, match="no answer within 0 s"):
        device.shell("x", seconds=0)


def test_connect_believes_only_the_list(tmp_path: Path) -> None:
    """`adb connect` exits with 0 when it is refused."""
    adb = client(tmp_path, 'case "$1" in connect) echo "failed to connect to h:1: Connection refused";; '
                           'devices) echo "List of devices attached";; esac')
    with pytest.raises(NoDeviceError, match=r"h:1: adb cannot connect: .*Connection refused"):
        connect(adb, "h:1")
    with pytest.raises(InputError, match="is not an address"):
        connect(adb, "h:x; rm -rf /")
