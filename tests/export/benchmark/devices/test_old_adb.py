"""The phone's path with an adb client of 2019: it says errors otherwise than today's, and ends with 0 when a phone vanishes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from device_lab.adb_client import AdbClient, old_client, phones, private_server
from device_lab.downloads import NotHere
from device_lab.phone import SimulatedPhone

from mnv3_tf.errors import KitError, NoDeviceError
from mnv3_tf.export.benchmark.devices.adb import Adb, AdbDevice
from mnv3_tf.export.benchmark.devices.bench import benchmark_device, open_target
from mnv3_tf.export.benchmark.devices.remote import DeviceLost
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
from mnv3_tf.progress import Silent

pytestmark = pytest.mark.slow
Make = Callable[..., SimulatedPhone]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbClient]:
    try:
        program = old_client(tmp_path_factory.mktemp("adb29"))
    except (NotHere, OSError) as reason:
        pytest.skip(f"NOT TESTED, no adb 29 here, so only today's client is tried: {reason}")
    with private_server(program, tmp_path_factory.mktemp("home29")) as found:
        yield found


@pytest.fixture
def old_phone(client: AdbClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes phones that only the old client's server knows; `open_target` finds that client."""
    for name, value in client.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ADB", str(client.program))
    with phones(client, tmp_path) as make:
        yield make


@pytest.mark.slow
@pytest.mark.parametrize("shell_v2", [True, False])
def test_a_model_is_measured(shell_v2: bool, client: AdbClient, old_phone: Make, files: dict[str, Path]) -> None:
    pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
    assert "29.0" in Adb().run("version").stdout
    phone = old_phone(shell_v2=shell_v2)
    settings = BenchmarkSettings(runs=8, min_seconds=0, rounds=2, warmup=1, cool_down=0)
    row, = benchmark_device(open_target(f"adb:{phone.serial}"), [files["plain_int8"]], settings, Silent()).rows
    assert row["failure"] is None and row["runs"] >= 8 and row["peak_memory_mb"] > 1 and phone.settled()


def test_its_words_for_what_goes_wrong(client: AdbClient, old_phone: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(300_000))
    phone = old_phone()
    device = AdbDevice(Adb(), phone.serial)
    assert device.shell("echo out; sh -c 'exit 7'").code == 7
    for faults, words in (({"read_only": True}, "there is read-only"), ({"disk_full": 100_000}, "the device is full")):
        phone.set_faults(**faults)
        with pytest.raises(KitError, match=words) as caught:
            device.push(tmp_path / "file", "/data/local/tmp/file")
        assert "\n" not in str(caught.value)
    phone.set_faults()
    device.push(tmp_path / "file", "/data/local/tmp/file")
    with pytest.raises(KitError, match="cannot be read"):
        device.pull("/data/local/tmp/none", tmp_path / "none")
    client.run("disconnect", phone.serial)
    with pytest.raises(DeviceLost, match="the device is gone"):
        device.shell("true")
    with pytest.raises(NoDeviceError, match="adb knows no such device"):
        open_target(f"adb:{phone.serial}")
    shy = old_phone(unauthorized=True)
    with pytest.raises(NoDeviceError, match="Allow USB debugging"):
        open_target(f"adb:{shy.serial}")
    with pytest.raises(NoDeviceError, match="Allow USB debugging"):
        AdbDevice(Adb(), shy.serial).shell("true")


def test_a_phone_that_vanishes_in_the_middle_of_a_command(client: AdbClient, old_phone: Make) -> None:
    """The client ends with 0 then, as if all were well."""
    phone = old_phone(drop_after_opens=2)
    device = AdbDevice(Adb(), phone.serial)
    assert [device.shell("echo yes").output for _ in range(2)] == ["yes", "yes"]
    with pytest.raises((DeviceLost, NoDeviceError)) as caught:
        device.shell("echo yes")
    assert phone.serial in str(caught.value)
