"""What a device is, without what tells one specimen from another: no serial number leaves this module."""

import hashlib
import re
from dataclasses import dataclass

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.devices.remote import RemoteDevice

_PROPERTIES = ("ro.product.manufacturer", "ro.product.model", "ro.build.version.release", "ro.build.version.sdk",
               "ro.product.cpu.abilist", "ro.product.cpu.abi", "ro.soc.manufacturer", "ro.soc.model", "ro.board.platform",
               "ro.build.fingerprint", "ro.serialno")
# What the kit calls an architecture, by Android's and the kernel's names.
ARCHITECTURES = {"arm64-v8a": "aarch64", "armeabi-v7a": "arm", "armeabi": "arm", "x86_64": "x86_64", "x86": "x86",
                 "aarch64": "aarch64", "armv8l": "arm", "armv7l": "arm", "i686": "x86"}


@dataclass(frozen=True)
class DeviceIdentity:
    """A kind of device.

    Attributes:
        name: such as "Google Pixel 8 (Android 14)".
        architecture: "aarch64", "arm", "x86_64" or "x86".
        soc: chip, or "".
        system: such as "Android 14 (API 34)".
        build_fingerprint: of the system, or None on a board.
        alias: eight digits that are the same for the same specimen, made of its serial.
    """

    name: str
    architecture: str
    soc: str
    system: str
    build_fingerprint: str | None
    alias: str


def identify(device: RemoteDevice) -> DeviceIdentity:
    """Asks a device what it is.

    Raises:
        InputError: its processor is of a kind that nothing here runs on.
    """
    return _android(device) if device.kind == "adb" else _board(device)


def _android(device: RemoteDevice) -> DeviceIdentity:
    text = device.check("; ".join(f'echo "$(getprop {name})"' for name in _PROPERTIES))
    values = dict(zip(_PROPERTIES, (line.strip() for line in text.splitlines()), strict=False))
    abi = (values.get("ro.product.cpu.abilist") or values.get("ro.product.cpu.abi") or "").strip(",").split(",")[0]
    serial = values.get("ro.serialno") or device.name
    maker, model = values.get("ro.product.manufacturer", ""), values.get("ro.product.model", "")
    name = " ".join(dict.fromkeys(f"{maker} {model}".split())) or "Android device"
    release = values.get("ro.build.version.release") or "?"
    fingerprint = values.get("ro.build.fingerprint") or None
    soc = " ".join(part for part in (values.get("ro.soc.manufacturer"), values.get("ro.soc.model")) if part) or \
        values.get("ro.board.platform", "")
    return DeviceIdentity(f"{name} (Android {release})", _architecture(device, abi), soc,
                          f"Android {release} (API {values.get('ro.build.version.sdk') or '?'})",
                          fingerprint.replace(serial, "...") if fingerprint and len(serial) > 4 else fingerprint, _alias(serial))


def _board(device: RemoteDevice) -> DeviceIdentity:
    text = device.check("uname -m; uname -sr; cat /proc/device-tree/model 2>/dev/null | tr -d '\\0'; echo; "
                        "grep -m1 -E 'model name|Hardware' /proc/cpuinfo; sed -n 's/^PRETTY_NAME=//p' /etc/os-release; true")
    lines = [line.strip() for line in text.splitlines()]
    machine, kernel, model = [*lines, "", "", ""][:3]
    chip = next((re.sub(r"^[^:]*:\s*", "", line) for line in lines if re.match(r"(model name|Hardware)\s*:", line)), "")
    system = lines[-1].strip('"') if lines and lines[-1].startswith('"') else kernel
    return DeviceIdentity(f"{model or chip or machine} ({system})", _architecture(device, machine), chip,
                          f"{system}, {kernel}", None, _alias(device.name))


def _alias(serial: str) -> str:
    """Eight digits that stand for a serial number."""
    return hashlib.sha256(f"mnv3:{serial}".encode()).hexdigest()[:8]


def _architecture(device: RemoteDevice, name: str) -> str:
    found = ARCHITECTURES.get(name, name)
    if found not in set(ARCHITECTURES.values()):
        raise InputError(f"{device.name}: its processor is {name or 'not named'!r}, and files run on {', '.join(ARCHITECTURES)}.")
    return found
