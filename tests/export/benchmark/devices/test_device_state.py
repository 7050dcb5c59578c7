"""A device's heat, battery, clocks and screen, as makers and versions of Android tell them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from device_lab.tree import set_state, write_tree
from device_lab.waiting import PATIENCE
from hypothesis import given
from hypothesis import strategies as st

from mnv3_tf.export.benchmark.devices.state import STATE_SCRIPT, THERMAL_STATUS, DeviceState, parse_state, throttle_flags

M = "MNV3-SECTION"


def ask(shell: str, root: Path) -> str:
    """Runs the script in a shell of this machine over a test phone's tree; Android's own shell is mksh."""
    script = STATE_SCRIPT.replace("/sys/", f"{root}/sys/").replace("/proc/[0-9]*", f"{root}/proc/[0-9]*")
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, timeout=PATIENCE,
                          env={"PATH": f"{root}/system/bin:{os.environ['PATH']}", "SYSROOT": str(root)})
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", [shell for shell in ("dash", "bash", "mksh", "ksh") if shutil.which(shell)])
def test_the_script_in_a_real_shell(shell: str, tmp_path: Path) -> None:
    write_tree(tmp_path)
    set_state(tmp_path, level=15, cpu=52.5, status=2)
    (tmp_path / "sys/devices/system/cpu/cpu7/cpufreq/scaling_max_freq").write_text("1400000")  # without an end of line
    state = parse_state(ask(shell, tmp_path))
    assert (state.battery_level, state.battery_c, state.charging, state.plugged) == (15, 27.1, True, "usb")
    assert (state.thermal_status, state.thermal_status_name) == (2, "moderate")
    assert (state.cpu_temperature_c, state.skin_c, state.temperatures_c["gpuss-0"]) == (52.5, 34.2, 39.5)
    assert state.governors == dict.fromkeys(range(8), "schedutil") and state.frequencies_mhz[0] == 1804.8
    assert (state.allowed_mhz[7], state.max_frequencies_mhz[7]) == (1400.0, 2841.6)
    assert state.screen_on is True and state.power_save is False


def test_the_script_where_there_is_nothing(tmp_path: Path) -> None:
    """A board, or a phone that lets a shell read nothing."""
    state = parse_state(ask("sh", tmp_path))
    assert state == DeviceState(load_average=state.load_average)


@pytest.mark.parametrize(("lines", "expected"), [
    ("  level: 42\n  scale: 50\n  status: 2", (84, True)), ("  level: 100\n  status: 5", (100, False)),
    ("  level: 7\n  status: 1", (7, None)), ("  level: x\n  temperature: 271", (None, None))])
def test_batteries(lines: str, expected: tuple[int | None, bool | None]) -> None:
    state = parse_state(f"{M} battery\nCurrent Battery Service state:\n  AC powered: true\n{lines}\n")
    assert (state.battery_level, state.charging) == expected and state.plugged == "ac"


@pytest.mark.parametrize(("text", "on"), [
    ("mWakefulness=Awake", True), ("mWakefulness=Asleep\nmWakefulnessChanging=Awake", False), ("mWakefulness=Dozing", False),
    ("Display Power: state=ON", True), ("mWakefulness=Awake\nDisplay Power: state=OFF", False),
    ("mHoldingDisplaySuspendBlocker=true", True), ("mHoldingDisplaySuspendBlocker=false", False), ("", None)])
def test_screens(text: str, on: bool | None) -> None:
    assert parse_state(f"{M} power\n{text}\n").screen_on is on


@pytest.mark.parametrize(("power", "saver", "expected"), [
    ("mLowPowerModeEnabled=true", "null", True), ("", "1", True), ("mLowPowerModeEnabled=true", "0", False), ("", "", None)])
def test_power_save(power: str, saver: str, expected: bool | None) -> None:
    assert parse_state(f"{M} power\n{power}\n{M} saver\n{saver}\n").power_save is expected


def test_thermal_zones_in_every_unit() -> None:
    text = (f"{M} zones\ncpu-0-0=41000\ncpu-1-0=45500\nskin-therm=34200\nbattery=271\nmtktscpu=47\nmodem=-274000\ntsens=-40000\n"
            "soc=84\nsocd=16\nvbat=4100\npm8350-bcl-lvl0=100\npa=0\n=\ngpu=\nnpu=1x\ncpu-0-0=40000\n=33000\n")
    state = parse_state(text.replace("\n", "\r\r\n"))
    assert state.temperatures_c == {"cpu-0-0": 41, "cpu-1-0": 45.5, "skin-therm": 34.2, "battery": 27.1, "mtktscpu": 47,
                                    "zone": 33}
    assert (state.cpu_temperature_c, state.skin_c) == (47, 34.2)


def sensor(value: object, kind: int, name: str) -> str:
    return f"\tTemperature{{mValue={value}, mType={kind}, mName={name}, mStatus=0}}\n"


@pytest.mark.parametrize(("text", "status", "cpu", "skin"), [
    # Android 10: only what was cached.
    ("Thermal Status: 1\nCached temperatures:\n" + sensor(41.5, 0, "CPU0") + sensor(33, 3, "skin"), 1, 41.5, 33),
    # Current values count more than cached ones.
    ("Thermal Status: 0\nCached temperatures:\n" + sensor(99, 0, "CPU0") + sensor(98, 0, "CPU1") +
     "Current temperatures from HAL:\n" + sensor(40, 0, "CPU0") + sensor(50, 0, "cluster-x") +
     "Current cooling devices from HAL:\n\tCoolingDevice{mValue=0, mType=2, mName=fan}\n"
     "Temperature static thresholds from HAL:\n\tTemperatureThreshold{mType=0, mName=CPU0}\n", 0, 50, None),
    ("Thermal Status: 0\nCached temperatures:\n" + sensor(38, 0, "CPU0") + "Current temperatures from HAL:\nHAL dead\n",
     0, 38, None),
    # A maker with types of its own, and sensors that are off.
    ("Thermal Status: 3\nCached temperatures:\n" + sensor(-99.9, 6, "TYPE_POWER_AMPLIFIER") + sensor(25.5, 4, "TYPE_SKIN") +
     sensor(24, 1, "TYPE_CPU") + sensor(29, 3, "TYPE_BATTERY") + sensor("NaN", 0, "CPU7") + sensor("1.2.3", 0, "CPU6"),
     3, 24, 25.5),
    ("Thermal Status: 0\nCached temperatures:\n" + sensor(4.1, 6, "vbat") + sensor(90, 8, "soc"), 0, None, None),
    # Without a thermal driver the service says 0 all the time.
    ("Thermal Status: 0\nCached temperatures:\nHAL Ready: false\n", None, None, None), ("Can't find service", None, None, None)])
def test_thermal_services(text: str, status: int | None, cpu: float | None, skin: float | None) -> None:
    state = parse_state(f"{M} thermal\nIsStatusOverride: false\n{text}")
    assert (state.thermal_status, state.cpu_temperature_c, state.skin_c) == (status, cpu, skin)
    assert state.thermal_status_name == (None if status is None else THERMAL_STATUS[status])


def test_flags_in_words() -> None:
    cool = DeviceState(thermal_status=0, cpu_temperature_c=40, skin_c=30, battery_c=28, battery_level=80)
    hot = DeviceState(thermal_status=3, cpu_temperature_c=46, skin_c=36, battery_c=33.5, battery_level=19, charging=True)
    assert throttle_flags(cool, hot, 1.2) == (
        "throttling: thermal status severe", "throttling: thermal status rose from none to severe",
        "warmer: the CPU went from 40 to 46 °C", "warmer: the skin went from 30 to 36 °C",
        "warmer: the battery went from 28 to 34 °C",
        "slower: the last round's median is 1.20 times the first's", "low battery (19%)")
    assert throttle_flags(hot, cool) == ("throttling: thermal status severe", "low battery (19%)")
    slow = DeviceState(governors={0: "powersave", 4: "schedutil"}, allowed_mhz={0: 1800.0, 4: 1200.0},
                       max_frequencies_mhz={0: 1800.0, 4: 2400.0}, power_save=True)
    for before, after in ((slow, DeviceState()), (DeviceState(), slow)):
        assert throttle_flags(before, after) == ("throttling: the highest clock of cpu4 is lowered", "the battery saver is on",
                                                 "the frequency governor of cpu0 is powersave")
    assert throttle_flags(DeviceState(), DeviceState()) == ()


PIECES = st.sampled_from([
    f"{M} ", "battery\n", "thermal\n", "zones\n", "cpus\n", "load\n", "power\n", "Temperature{mValue=", "mName=", "}", ", ", "=",
    "-", "9" * 400, "1.2.3", "  level: ", "  scale: 0\n", "Thermal Status: ", "\r", "\n", "²", " "])


@given(st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=40).map("".join)))
def test_no_text_is_an_error(text: str) -> None:
    state = parse_state(text)
    json.dumps(state.to_dict())
    state.sentence()
    throttle_flags(state, state)
