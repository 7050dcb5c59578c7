"""The machine that a measurement was made on: what changes latency, and no name of the host or its user."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from mnv3_tf.machine import cpu_model, has_integer_dot_products, usable_cores

UNKNOWN = "unknown"


def environment() -> dict[str, Any]:
    """CPU, cores, frequency governor, load, and versions of the software; "unknown" or None for what cannot be read."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "integer_dot_products": has_integer_dot_products(),
        "cores": os.cpu_count() or 1,
        "cores_usable": usable_cores(),
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or UNKNOWN,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "runtime": f"ai-edge-litert {_version('ai-edge-litert')}",
        "numpy": _version("numpy"),
    }


def temperature_c() -> float | None:
    """The warmest thermal zone in degrees Celsius; None where there is none, as in most virtual machines."""
    found = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        line = _first_line(str(zone))
        if line is not None and line.lstrip("-").isdigit():
            found.append(int(line) / 1000)
    return max(found, default=None)


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip().splitlines()[0]
    except (OSError, IndexError):
        return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN
