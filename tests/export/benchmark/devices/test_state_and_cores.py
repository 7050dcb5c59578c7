"""What a device says of its heat, battery, clocks and cores."""

import pytest

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.devices.cores import parse_cores, spans
from mnv3_tf.export.benchmark.devices.state import DeviceState, parse_state, throttle_flags

TEXT = """MNV3-SECTION battery
  AC powered: false
  USB powered: true
  status: 2
  level: 42
  scale: 50
  temperature: 271
MNV3-SECTION thermal
Thermal Status: 1
Cached temperatures:
\tTemperature{mValue=99.0, mType=0, mName=CPU0, mStatus=0}
Current temperatures from HAL:
\tTemperature{mValue=41.5, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=33.0, mType=3, mName=skin, mStatus=0}
MNV3-SECTION power
  mWakefulness=Asleep
  mLowPowerModeEnabled=true
MNV3-SECTION zones
cpu-0-0=40000
gpu=39
off=-274000
MNV3-SECTION cpus
0 schedutil 300000 1804800 1804800
7 performance 2841600 1400000 2841600
9 - - - -
MNV3-SECTION load
1.25 0.9 0.8 1/100 1234
"""


def test_everything_is_read() -> None:
    for text in (TEXT, TEXT.replace("\n", "\r\n")):
        state = parse_state(text)
        assert (state.battery_level, state.battery_c, state.charging, state.plugged) == (84, 27.1, True, "usb")
        assert (state.thermal_status, state.cpu_temperature_c, state.skin_c) == (1, 41.5, 33.0)
        assert state.temperatures_c["gpu"] == 39 and "off" not in state.temperatures_c
        assert (state.screen_on, state.power_save, state.load_average) == (False, True, 1.25)
        assert state.governors == {0: "schedutil", 7: "performance"} and state.allowed_mhz[7] == 1400
    assert "battery 84%, charging" in state.sentence() and "thermal status light" in state.sentence()


def test_nothing_is_invented() -> None:
    assert parse_state("") == DeviceState() and parse_state("MNV3-SECTION thermal\nnonsense\n") == DeviceState()
    assert DeviceState().sentence() == "nothing is known of its state"


def test_why_a_device_may_hold_itself_back() -> None:
    before, after = DeviceState(cpu_temperature_c=40, battery_level=50), parse_state(TEXT)
    flags = throttle_flags(before, after, drift=1.3)
    assert any("thermal status light" in flag for flag in flags) and any("clock of cpu7" in flag for flag in flags)
    assert any("1.30 times" in flag for flag in flags) and any("battery saver" in flag for flag in flags)
    assert any("from 40 to 60" in flag for flag in throttle_flags(before, DeviceState(cpu_temperature_c=60)))
    assert any("low battery" in flag for flag in throttle_flags(before, DeviceState(battery_level=9)))
    assert throttle_flags(before, before, drift=1.0) == ()


CORES = """MNV3-CORES 0-5,7
0 1804800 325
1 1804800 325
2 1804800 325
3 1804800 325
4 2419200 828
5 2419200 828
6 2419200 828
7 2841600 1024
"""


@pytest.mark.parametrize(("choice", "mask", "text"), [
    ("all", None, "all"), ("little", 0b1111, "cpu0-3 (little)"), ("big", 0b10110000, "cpu4-5,7 (big)"),
    ("prime", 0b10000000, "cpu7 (prime)"), ("mid", 0b110000, "cpu4-5 (mid)"), ("0xf0", 0b10110000, "cpu4-5,7"),
    ("f0", 0b10110000, "cpu4-5,7"), ("0,2", 0b101, "cpu0,2"), ("4-6", 0b110000, "cpu4-5")])
def test_choices_of_cores(choice: str, mask: int | None, text: str) -> None:
    """CPU 6 is offline."""
    assert parse_cores(CORES).mask(choice) == (mask, text)


def test_cores_of_one_kind_and_wrong_choices() -> None:
    same = parse_cores("MNV3-CORES 0-3\n0 0 0\n1 0 0\n2 0 0\n3 0 0\n")
    assert same.mask("big") == (0b1111, "cpu0-3 (big) (one kind of cores only)")
    with pytest.raises(InputError, match=r"names no core of this device; cpu0-3 are online"):
        same.mask("8")
    with pytest.raises(InputError, match="is not a choice of cores"):
        same.mask("fast")
    with pytest.raises(InputError, match="names no CPU core"):
        parse_cores("")
    # Without capacities the clock decides.
    assert parse_cores(CORES.replace(" 325", " 0").replace(" 828", " 0").replace(" 1024", " 0")).mask("prime")[0] == 0b10000000
    assert spans((0, 1, 2, 7)) == "0-2,7"
