"""Battery, heat and clocks of a test phone, changed while others read them."""

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

from device_lab.tree import set_state

FIRST_PID = 900_000_000  # beyond every number of this machine


def apply_state(root: Path, state: dict[str, Any]) -> None:
    """Changes battery, heat and clocks of a phone.

    Args:
        root: its folder.
        state: level (battery, percent), battery_c, charging, cpu (degrees), skin (degrees), status (thermal, 0 to 6), governor,
            highest_khz (CPU number -> clock that is allowed), uptime (seconds) and processes (name -> CPU seconds); with an
            uptime, commands see these processes in place of this machine's.
    """
    known = root / "data/sim/state.json"
    values = {**(json.loads(known.read_text()) if known.exists() else {}), **state}
    put(known, json.dumps(values))
    # Made in a folder of its own, so that no command ever reads a half.
    new = root / "data/sim/new"
    (new / "data/sim/dumpsys").mkdir(parents=True, exist_ok=True)
    set_state(new, **{name: values[name] for name in ("level", "cpu", "status") if name in values})
    battery, thermal = new / "data/sim/dumpsys/battery", new / "data/sim/dumpsys/thermalservice"
    if "battery_c" in values:
        _edit(battery, r"(temperature: )\d+", rf"\g<1>{round(10 * values['battery_c'])}")
    if "charging" in values:
        _edit(battery, r"(  status: )\d+", rf"\g<1>{2 if values['charging'] else 3}")
        _edit(battery, r"(USB powered: )\w+", rf"\g<1>{str(bool(values['charging'])).lower()}")
    if "skin" in values:
        _edit(thermal, r"mValue=[\d.]+(, mType=3)", rf"mValue={values['skin']}\g<1>")
    if "uptime" in values:
        (new / "proc").mkdir(exist_ok=True)
        (new / "proc/uptime").write_text(f"{values['uptime']} 0.00\n")
        (new / "proc/loadavg").write_text("1.25 0.90 0.80 1/100 1234\n")
        for number, (name, seconds) in enumerate({"init": 1.0, **values.get("processes", {})}.items()):
            pid = number + FIRST_PID if number else 1
            (new / f"proc/{pid}").mkdir(exist_ok=True)
            (new / f"proc/{pid}/stat").write_text(f"{pid} ({name}) S 0 {'0 ' * 9}{round(100 * seconds)} 0 0 0 20 0 1 0 1\n")
            (root / f"proc/{pid}").mkdir(exist_ok=True)
    for path in [path for path in new.rglob("*") if path.is_file()]:
        path.replace(root / path.relative_to(new))
    for number, folder in ((int(path.parent.name[3:]), path) for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq")):
        if "governor" in values:
            put(folder / "scaling_governor", f"{values['governor']}\n")
        allowed = {int(cpu): khz for cpu, khz in values.get("highest_khz", {}).items()}
        if number in allowed:
            put(folder / "scaling_max_freq", f"{allowed[number]}\n")


def put(path: Path, text: str) -> None:
    """Replaces a file at once: others read it meanwhile."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    new.write_text(text)
    new.replace(path)


def _edit(path: Path, pattern: str, replacement: str) -> None:
    path.write_text(re.sub(pattern, replacement, path.read_text()))
