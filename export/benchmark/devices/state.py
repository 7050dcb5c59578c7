"""The state of a device that changes latency: heat, battery, clocks, screen, load."""

import re
from dataclasses import dataclass, field
from typing import Any

from mnv3_tf.export.benchmark.devices.other_load import PROCESSES_SCRIPT, ProcessTimes, parse_processes
from mnv3_tf.export.benchmark.runners.log_lines import read_number

#: Android's names of its thermal status.
THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
# Sensors that are switched off give numbers beyond these.
_LEAST_C, _MOST_C = -40.0, 150.0
# Some kernels list batteries' charge, currents and voltages among the temperatures.
_NO_TEMPERATURE = re.compile(r"^socd?$|bcl|vbat|ibat|vph|[-_]lvl\d*$", re.IGNORECASE)
_KINDS = (("cpu", re.compile(r"cpu|tsens|soc|little|big|x86_pkg|^mid$|^ap$", re.IGNORECASE)),
          ("skin", re.compile(r"skin|shell|xo.?therm|quiet", re.IGNORECASE)),
          ("other", re.compile(r"gpu|bat|usb|npu|tpu|modem|charg|amplifier|wlan|camera|ddr", re.IGNORECASE)))
# Android's types of sensors; the names come first, for one maker counts them differently.
_TYPES = {"0": "cpu", "3": "skin"}
_CPU, _KILOHERTZ = re.compile(r"^ *([0-9]{1,4})" + r" +(\S+)" * 4 + r" *$", re.MULTILINE), re.compile(r"[0-9]{1,9}")
_BATTERY = re.compile(r"^\s*(level|scale|temperature|status): (-?[0-9]{1,9}(?:\.[0-9]+)?)\s*$", re.MULTILINE)
_CHARGING = {2.0: True, 3.0: False, 4.0: False, 5.0: False}
_WARMER_C = 5.0
_LOW_BATTERY = 20
_SLOWER = 1.10
_MARK = "MNV3-SECTION"

#: Asks a device for all of it; each part may fail by itself. For Android's and any other POSIX shell. The shell reads the many
#: small files itself: a process for each would warm the device.
STATE_SCRIPT = f"""
value_of() {{ v=; read -r v < "$1"; }} 2>/dev/null
echo {_MARK} battery; dumpsys battery 2>/dev/null
echo {_MARK} thermal; dumpsys thermalservice 2>/dev/null
echo {_MARK} power; dumpsys power 2>/dev/null | \
grep -E 'mWakefulness=|Display Power: state=|mHoldingDisplaySuspendBlocker=|mLowPowerModeEnabled='
echo {_MARK} saver; settings get global low_power 2>/dev/null
echo {_MARK} zones; for z in /sys/class/thermal/thermal_zone*; do value_of "$z/type"; t=$v; value_of "$z/temp"; echo "$t=$v"; done
echo {_MARK} cpus; for c in /sys/devices/system/cpu/cpu[0-9]*; do l=${{c##*/cpu}}; \
for n in scaling_governor scaling_cur_freq scaling_max_freq cpuinfo_max_freq; do value_of "$c/cpufreq/$n"; \
l="$l ${{v:--}}"; done; echo "$l"; done
echo {_MARK} load; cat /proc/loadavg 2>/dev/null
echo {_MARK} processes; {PROCESSES_SCRIPT}
true
"""


@dataclass(frozen=True)
class DeviceState:
    """What a device said of itself at a moment; None and empty where it did not say.

    Attributes:
        battery_level: percent.
        battery_c, cpu_temperature_c, skin_c: degrees Celsius; of the CPU the warmest sensor.
        charging: whether it is.
        plugged: "ac", "usb", "wireless" or None.
        thermal_status: 0 (none) to 6 (shutdown), see :data:`THERMAL_STATUS`.
        temperatures_c: sensor -> degrees.
        governors: CPU -> frequency governor.
        frequencies_mhz, allowed_mhz, max_frequencies_mhz: CPU -> now, the most that is allowed now, the most there is.
        screen_on: whether it is.
        power_save: whether the battery saver is on.
        load_average: of the last minute.
        processes: CPU times of what runs, for :func:`mnv3_tf.export.benchmark.devices.other_load.other_load`; it is not
            part of :meth:`to_dict`.
    """

    battery_level: int | None = None
    battery_c: float | None = None
    charging: bool | None = None
    plugged: str | None = None
    thermal_status: int | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    cpu_temperature_c: float | None = None
    skin_c: float | None = None
    governors: dict[int, str] = field(default_factory=dict)
    frequencies_mhz: dict[int, float] = field(default_factory=dict)
    allowed_mhz: dict[int, float] = field(default_factory=dict)
    max_frequencies_mhz: dict[int, float] = field(default_factory=dict)
    screen_on: bool | None = None
    power_save: bool | None = None
    load_average: float | None = None
    processes: ProcessTimes | None = field(default=None, compare=False)

    @property
    def thermal_status_name(self) -> str | None:
        """Android's name of the thermal status, such as "light"; None where it is not known."""
        return None if self.thermal_status is None else THERMAL_STATUS[min(self.thermal_status, len(THERMAL_STATUS) - 1)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: value for name, value in vars(self).items() if name != "processes"}

    def sentence(self) -> str:
        """The main things in words."""
        parts = []
        if self.battery_level is not None:
            parts.append(f"battery {self.battery_level}%{', charging' if self.charging else ''}")
        if self.cpu_temperature_c is not None:
            parts.append(f"CPU {self.cpu_temperature_c:.0f} °C")
        if self.thermal_status is not None:
            parts.append(f"thermal status {self.thermal_status_name}")
        governors = sorted(set(self.governors.values()))
        parts += [f"governor {' and '.join(governors)}"] if governors else []
        parts += [f"screen {'on' if self.screen_on else 'off'}"] if self.screen_on is not None else []
        parts += [f"load average {self.load_average:.2f}"] if self.load_average is not None else []
        return ", ".join(parts) or "nothing is known of its state"


def parse_state(text: str) -> DeviceState:
    """Reads what :data:`STATE_SCRIPT` printed. Any text is read without an error; what is missing is None."""
    parts: dict[str, str] = {}
    for block in re.sub(r"\r+\n?", "\n", text).split(f"{_MARK} ")[1:]:
        name, _, body = block.partition("\n")
        parts[name.strip()] = body
    values: dict[str, Any] = {**_battery(parts.get("battery", "")), **_power(parts.get("power", "")),
                              **_cpus(parts.get("cpus", ""))}
    saver = parts.get("saver", "").strip()
    if saver in ("0", "1"):
        values["power_save"] = saver == "1"
    status, named, kinds = _thermal(parts.get("thermal", ""))
    sensors = {**_zones(parts.get("zones", "")), **named}
    kinds = {name: kinds.get(name) or _kind(name) for name in sensors}
    load = re.match(r"\s*([0-9]{1,9}(?:\.[0-9]+)?)\s", parts.get("load", ""))
    return DeviceState(**values, thermal_status=status, temperatures_c=sensors, skin_c=_warmest(sensors, kinds, "skin"),
                       cpu_temperature_c=_warmest(sensors, kinds, "cpu"), load_average=float(load.group(1)) if load else None,
                       processes=parse_processes(parts.get("processes", "")))


def _battery(text: str) -> dict[str, Any]:
    numbers = {name: float(value) for name, value in reversed(_BATTERY.findall(text))}  # of several lines the first
    level, tenths = numbers.get("level"), numbers.get("temperature", 0.0)
    plugged = [name.lower() for name in ("AC", "USB", "Wireless") if re.search(rf"^\s*{name} powered: true", text, re.MULTILINE)]
    return {"battery_level": None if level is None else round(100 * level / (numbers.get("scale") or 100)),
            "battery_c": tenths / 10 if _is_real(tenths / 10) else None,
            "charging": _CHARGING.get(numbers.get("status", 0)), "plugged": plugged[0] if plugged else None}


def _power(text: str) -> dict[str, Any]:
    """The display's own state says more than wakefulness: a phone may be awake with its screen off."""
    displays = re.findall(r"Display Power: state=(\w+)", text)
    awake, holding, saver = (re.search(rf"{name}=(\w+)", text) for name in (
        "mWakefulness", "mHoldingDisplaySuspendBlocker", "mLowPowerModeEnabled"))
    on = "ON" in displays if displays else awake.group(1) in ("Awake", "Dreaming") if awake else _flag(holding)
    return {"screen_on": on, "power_save": _flag(saver)}


def _flag(match: re.Match[str] | None) -> bool | None:
    return {"true": True, "false": False}.get(match.group(1)) if match else None


def _thermal(text: str) -> tuple[int | None, dict[str, float], dict[str, str]]:
    """Status, the sensors that the service names (its current values where it has them), and of what they are.

    A service without a thermal driver answers 0 always, so its status is not known.
    """
    status = re.search(r"^\s*Thermal Status: ([0-9])\b", text, re.MULTILINE)
    before, _, current = text.partition("Current temperatures from HAL:")
    cached, kinds = _sensors(before)
    now, kinds_now = _sensors(current)
    blind = not cached and not now and re.search(r"HAL Ready: false", text)
    return (int(status.group(1)) if status and not blind else None), now or cached, kinds | kinds_now


def _sensors(text: str) -> tuple[dict[str, float], dict[str, str]]:
    values: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for block in re.findall(r"\bTemperature\{([^{}\n]*)\}", text):
        fields = dict(re.findall(r"(\w+)=([^,]*)", block))
        name, value = fields.get("mName", "").strip(), read_number(fields.get("mValue", ""))
        if name and value is not None and _is_real(value) and not _NO_TEMPERATURE.search(name):
            values[name] = value
            kinds[name] = _kind(name) or _TYPES.get(fields.get("mType", ""), "other")
    return values, kinds


def _zones(text: str) -> dict[str, float]:
    """The kernel's thermal zones: thousandths of degrees mostly, but some drivers give tenths, or degrees."""
    found: dict[str, float] = {}
    for name, value in re.findall(r"^([^=\n]*)=(-?[0-9]{1,9})\s*$", text, re.MULTILINE):
        size = abs(int(value))
        degrees = int(value) / (1000 if size > 1000 else 10 if size > _MOST_C else 1)
        label = name.strip() or "zone"
        if _is_real(degrees) and not _NO_TEMPERATURE.search(label):
            found[label] = max(degrees, found.get(label, degrees))
    return found


def _cpus(text: str) -> dict[str, dict[int, Any]]:
    found: dict[str, dict[int, Any]] = {"governors": {}, "frequencies_mhz": {}, "allowed_mhz": {}, "max_frequencies_mhz": {}}
    for cpu, governor, *clocks in _CPU.findall(text):
        if governor != "-":
            found["governors"][int(cpu)] = governor
        for key, khz in zip(("frequencies_mhz", "allowed_mhz", "max_frequencies_mhz"), clocks, strict=True):
            if _KILOHERTZ.fullmatch(khz):
                found[key][int(cpu)] = int(khz) / 1000
    return found


def _kind(name: str) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "")


def _warmest(sensors: dict[str, float], kinds: dict[str, str], kind: str) -> float | None:
    return max((value for name, value in sensors.items() if kinds[name] == kind), default=None)


def _is_real(degrees: float) -> bool:
    return _LEAST_C < degrees < _MOST_C and degrees != 0


def throttle_flags(before: DeviceState, after: DeviceState, drift: float | None = None) -> tuple[str, ...]:
    """Why the numbers between two states may be those of a device that held itself back, in words; empty: nothing says so.

    Args:
        before, after: the states.
        drift: median of the last round / median of the first.
    """
    flags = _heat_flags(before, after)
    lowered = sorted({cpu for state in (before, after) for cpu, allowed in state.allowed_mhz.items()
                      if allowed < 0.99 * state.max_frequencies_mhz.get(cpu, allowed)})
    if lowered:
        flags.append(f"throttling: the highest clock of {_cpus_in_words(lowered)} is lowered")
    if drift is not None and drift > _SLOWER:
        flags.append(f"slower: the last round's median is {drift:.2f} times the first's")
    level = min((state.battery_level for state in (before, after) if state.battery_level is not None), default=100)
    if level < _LOW_BATTERY:
        flags.append(f"low battery ({level}%)")
    if before.power_save or after.power_save:
        flags.append("the battery saver is on")
    slow = sorted({cpu for state in (before, after) for cpu, governor in state.governors.items() if governor == "powersave"})
    if slow:
        flags.append(f"the frequency governor of {_cpus_in_words(slow)} is powersave")
    return tuple(flags)


def _heat_flags(before: DeviceState, after: DeviceState) -> list[str]:
    flags = []
    hotter = after if (after.thermal_status or 0) >= (before.thermal_status or 0) else before
    if hotter.thermal_status:
        flags.append(f"throttling: thermal status {hotter.thermal_status_name}")
    if before.thermal_status is not None and after.thermal_status is not None and after.thermal_status > before.thermal_status:
        flags.append(f"throttling: thermal status rose from {before.thermal_status_name} to {after.thermal_status_name}")
    for part, first, last in (("CPU", before.cpu_temperature_c, after.cpu_temperature_c),
                              ("skin", before.skin_c, after.skin_c), ("battery", before.battery_c, after.battery_c)):
        if first is not None and last is not None and last > first + _WARMER_C:
            flags.append(f"warmer: the {part} went from {first:.0f} to {last:.0f} °C")
    return flags


def _cpus_in_words(cpus: list[int]) -> str:
    return "cpu" + ", cpu".join(map(str, cpus))
