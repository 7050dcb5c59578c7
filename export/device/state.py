"""The state of a device that changes latency: heat, battery, clocks, screen, load."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

#: Android's names of its thermal status.
THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
# Sensors that are switched off give such numbers.
_LEAST_C, _MOST_C = -40.0, 150.0
_WARMER_C = 5.0
_LOW_BATTERY = 20
_SLOWER = 1.10
_MARK = "MNV3-SECTION"

#: Asks a device for all of it; each part may fail by itself. For Android's and any other POSIX shell.
STATE_SCRIPT = f"""
echo {_MARK} battery; dumpsys battery 2>/dev/null
echo {_MARK} thermal; dumpsys thermalservice 2>/dev/null
echo {_MARK} power; dumpsys power 2>/dev/null | grep -E 'mWakefulness=|Display Power: state=|mLowPowerModeEnabled'
echo {_MARK} zones; for z in /sys/class/thermal/thermal_zone*; do \
echo "$(cat "$z/type" 2>/dev/null)=$(cat "$z/temp" 2>/dev/null)"; done
echo {_MARK} cpus; for c in /sys/devices/system/cpu/cpu[0-9]*; do f="$c/cpufreq"; \
echo "${{c##*/cpu}} $(cat "$f/scaling_governor" 2>/dev/null || echo -) $(cat "$f/scaling_cur_freq" 2>/dev/null || echo -) \
$(cat "$f/scaling_max_freq" 2>/dev/null || echo -) $(cat "$f/cpuinfo_max_freq" 2>/dev/null || echo -)"; done
echo {_MARK} load; cat /proc/loadavg 2>/dev/null
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """The main things in words."""
        parts = []
        if self.battery_level is not None:
            parts.append(f"battery {self.battery_level}%{', charging' if self.charging else ''}")
        if self.cpu_temperature_c is not None:
            parts.append(f"CPU {self.cpu_temperature_c:.0f} °C")
        if self.thermal_status is not None:
            parts.append(f"thermal status {THERMAL_STATUS[min(self.thermal_status, 6)]}")
        governors = sorted(set(self.governors.values()))
        parts += [f"governor {' and '.join(governors)}"] if governors else []
        parts += [f"screen {'on' if self.screen_on else 'off'}"] if self.screen_on is not None else []
        return ", ".join(parts) or "nothing is known of its state"


def parse_state(text: str) -> DeviceState:
    """Reads what :data:`STATE_SCRIPT` printed."""
    parts: dict[str, str] = {}
    for block in text.replace("\r", "").split(f"{_MARK} ")[1:]:
        name, _, body = block.partition("\n")
        parts[name.strip()] = body
    values: dict[str, Any] = {**_battery(parts.get("battery", "")), **_power(parts.get("power", "")),
                              **_cpus(parts.get("cpus", ""))}
    status, named = _thermal(parts.get("thermal", ""))
    zones = {**_zones(parts.get("zones", "")), **named}
    load = re.match(r"\s*([\d.]+)", parts.get("load", ""))
    return DeviceState(**values, thermal_status=status, temperatures_c=zones, skin_c=_warmest(zones, r"skin|shell|xo.?therm"),
                       cpu_temperature_c=_warmest(zones, r"cpu|tsens|soc|little|big"),
                       load_average=float(load.group(1)) if load else None)


def _battery(text: str) -> dict[str, Any]:
    def number(name: str) -> int | None:
        match = re.search(rf"^\s*{name}: (-?\d+)\s*$", text, re.MULTILINE)
        return int(match.group(1)) if match else None

    found: dict[str, Any] = {}
    level, scale, tenths, status = number("level"), number("scale"), number("temperature"), number("status")
    if level is not None:
        found["battery_level"] = round(100 * level / scale) if scale else level
    if tenths is not None and _is_real(tenths / 10):
        found["battery_c"] = tenths / 10
    if status is not None:
        found["charging"] = status == 2
    plugged = [name.lower() for name in ("AC", "USB", "Wireless") if re.search(rf"^\s*{name} powered: true", text, re.MULTILINE)]
    return {**found, **({"plugged": plugged[0]} if plugged else {})}


def _power(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if re.search(r"mWakefulness=|Display Power: state=", text):
        found["screen_on"] = bool(re.search(r"mWakefulness=Awake|Display Power: state=ON", text))
    saver = re.search(r"mLowPowerModeEnabled=(\w+)", text)
    return {**found, **({"power_save": saver.group(1) == "true"} if saver else {})}


def _thermal(text: str) -> tuple[int | None, dict[str, float]]:
    """Status, and the sensors that the service names (its current values where it has them)."""
    status = re.search(r"^\s*Thermal Status: (\d+)", text, re.MULTILINE)
    _, _, current = text.partition("Current temperatures from HAL:")
    sensors = {}
    for value, name in re.findall(r"Temperature\{mValue=([-\d.]+),.*?mName=([^,}]+)", current or text):
        if _is_real(float(value)):
            sensors[name.strip()] = float(value)
    return (int(status.group(1)) if status else None), sensors


def _zones(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in re.findall(r"^([^=\n]*)=(-?\d+)\s*$", text, re.MULTILINE):
        degrees = int(value) / 1000 if abs(int(value)) > 1000 else float(value)
        if _is_real(degrees):
            found[name.strip() or "zone"] = max(degrees, found.get(name.strip() or "zone", degrees))
    return found


def _cpus(text: str) -> dict[str, dict[int, Any]]:
    found: dict[str, dict[int, Any]] = {"governors": {}, "frequencies_mhz": {}, "allowed_mhz": {}, "max_frequencies_mhz": {}}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 5 or not words[0].isdigit():
            continue
        cpu = int(words[0])
        if words[1] != "-":
            found["governors"][cpu] = words[1]
        for key, word in zip(("frequencies_mhz", "allowed_mhz", "max_frequencies_mhz"), words[2:], strict=True):
            if word.isdigit():
                found[key][cpu] = int(word) / 1000
    return found


def _warmest(sensors: dict[str, float], pattern: str) -> float | None:
    return max((value for name, value in sensors.items() if re.search(pattern, name, re.IGNORECASE)), default=None)


def _is_real(degrees: float) -> bool:
    return _LEAST_C < degrees < _MOST_C and degrees != 0


def throttle_flags(before: DeviceState, after: DeviceState, drift: float | None = None) -> tuple[str, ...]:
    """Why the numbers between two states may be those of a device that held itself back.

    Args:
        before, after: the states.
        drift: median of the last round / median of the first.
    """
    flags = []
    status = max(before.thermal_status or 0, after.thermal_status or 0)
    if status:
        flags.append(f"throttling: thermal status {THERMAL_STATUS[min(status, 6)]}")
    lowered = sorted(cpu for cpu, allowed in after.allowed_mhz.items()
                     if allowed < 0.99 * after.max_frequencies_mhz.get(cpu, allowed))
    if lowered:
        flags.append(f"throttling: the highest clock of {'cpu' + ', cpu'.join(map(str, lowered))} is lowered")
    if before.cpu_temperature_c is not None and after.cpu_temperature_c is not None and \
            after.cpu_temperature_c > before.cpu_temperature_c + _WARMER_C:
        flags.append(f"warmer: the CPU went from {before.cpu_temperature_c:.0f} to {after.cpu_temperature_c:.0f} °C")
    if drift is not None and drift > _SLOWER:
        flags.append(f"slower: the last round's median is {drift:.2f} times the first's")
    if after.battery_level is not None and after.battery_level < _LOW_BATTERY and not after.charging:
        flags.append(f"low battery ({after.battery_level}%)")
    if before.power_save or after.power_save:
        flags.append("the battery saver is on")
    return tuple(flags)
