"""Talks to Android devices through the system's adb client, and believes neither its exit codes nor its silence.

What decides is the text: `adb connect` and old `adb shell` exit with 0 on failure, and adb joins the arguments of a shell command
with blanks.
"""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mnv3_tf.errors import InputError, KitError, NoDeviceError
from mnv3_tf.export.benchmark.devices.remote import SECONDS, DeviceLost, RemoteDevice, digest_script, last_line, run_client

_INSTALL = ("Install it (Debian and Ubuntu: apt install adb; elsewhere: the Android SDK platform tools), or give its path in the "
            "environment variable ADB")


@dataclass(frozen=True)
class DeviceEntry:
    """A line of `adb devices -l`.

    Attributes:
        serial: what adb calls the device.
        state: "device" if it can be used; else "offline", "unauthorized", "no permissions" and so on.
        model: as the device calls itself, or "".
    """

    serial: str
    state: str
    model: str = ""

    @property
    def usable(self) -> bool:
        """Whether commands can be run on it."""
        return self.state == "device"

    def problem(self) -> str:
        """Why it cannot be used and what to do, in one line."""
        other = f"is in the state {self.state!r}, in which no command can be run. Reconnect it."
        return f"{self.serial}: {_STATES.get(self.state, other)}"


_STATES = {
    "unauthorized": "has not allowed this computer. Unlock its screen, accept \"Allow USB debugging\", and run again; if nothing "
                    "is asked there, revoke USB debugging authorizations in its developer options and reconnect it.",
    "authorizing": "is being asked for permission. Unlock its screen, accept \"Allow USB debugging\", and run again.",
    "offline": "is offline: adb sees it and it does not answer. Reconnect the cable, or run adb reconnect offline; over the "
               "network, adb disconnect and adb connect again.",
    "no permissions": "may not be opened by this user. Install the udev rules (Debian and Ubuntu: apt install "
                      "android-sdk-platform-tools-common), join the group plugdev, then run adb kill-server and reconnect it.",
    "bootloader": "is in its bootloader. Start Android on it (fastboot reboot).",
    "recovery": "is in recovery mode. Start Android on it (adb reboot).",
    "sideload": "waits for a sideload. Start Android on it (adb reboot).",
    "connecting": "is still connecting. Run again in a moment.",
}


def find_adb() -> str:
    """The adb client: $ADB, then the Android SDK's, then the one in PATH.

    Raises:
        NoDeviceError: there is none; the message says where to get it.
    """
    given = os.environ.get("ADB")
    folders = filter(None, map(os.environ.get, ("ANDROID_HOME", "ANDROID_SDK_ROOT")))
    programs = [given] if given else [*(os.path.join(folder, "platform-tools", "adb") for folder in folders), "adb"]
    found = next(filter(None, map(shutil.which, programs)), None)
    if found is None:
        problem = f"{given}: is not a program (the environment variable ADB names it)" if given else "adb was not found"
        raise NoDeviceError(f"{problem}. {_INSTALL}.")
    return found


# A phone found by mDNS has a blank in its name after a reconnect: "adb-SERIAL-x (2)._adb-tls-connect._tcp". So what stands
# before a known state is the serial, and only before an unknown one the first word.
_KNOWN = "device|offline|unauthorized|authorizing|connecting|bootloader|recovery|rescue|sideload|host|detached|unknown"
_LINES = tuple(map(re.compile, (
    r"(\S.*?)\s+(no permissions)\b(.*)$", rf"(\S.*?)\s+({_KNOWN})((?:;|\s+\S+:\S|\s+[\d-]+\s).*|\s*)$",
    r"(\S+)\s+([\w-]+)(.*)$")))
_CHATTER = re.compile(r"\*|List of devices|adb server |adb: |error\b")


def parse_devices(text: str) -> tuple[DeviceEntry, ...]:
    """Reads what `adb devices -l` prints, whatever the starting daemon says in between."""
    entries = []
    for line in text.replace("\r", "").splitlines():
        match = next(filter(None, (form.match(line) for form in _LINES)), None)
        if match is None or _CHATTER.match(line):
            continue
        serial, state, rest = match.groups()
        model = re.search(r"\bmodel:(\S+)", rest)
        entries.append(DeviceEntry(serial, state, model.group(1).replace("_", " ") if model else ""))
    return tuple(entries)


class Adb:
    """The client program.

    Args:
        program: its path; None: looked for.
    """

    def __init__(self, program: str | None = None):
        self.program = program or find_adb()

    def run(self, *arguments: str, seconds: float = SECONDS) -> "subprocess.CompletedProcess[str]":
        """Runs the client, as :func:`run_client` does."""
        return run_client([self.program, *arguments], f"adb {' '.join(arguments[:3])}", seconds)

    def devices(self) -> tuple[DeviceEntry, ...]:
        """All devices that adb knows, usable or not.

        Raises:
            NoDeviceError: adb itself failed.
        """
        done = self.run("devices", "-l")
        if done.returncode or "List of devices" not in done.stdout:
            raise NoDeviceError(f"adb devices failed: {last_line(done.stderr or done.stdout)}")
        return parse_devices(done.stdout)

    def choose(self, wanted: str | None = None) -> DeviceEntry:
        """The one device to use.

        Args:
            wanted: its serial; None: the only usable one.

        Raises:
            NoDeviceError: there is none, or there are several, or it cannot be used.
        """
        entries = self.devices()
        if wanted is not None:
            entry = next((entry for entry in entries if entry.serial == wanted), None)
            if entry is None:
                known = ", ".join(entry.serial for entry in entries) or "none"
                raise NoDeviceError(f"{wanted}: adb knows no such device (known: {known}). Connect it, or adb connect HOST:PORT.")
            if not entry.usable:
                raise NoDeviceError(entry.problem())
            return entry
        usable = [entry for entry in entries if entry.usable]
        if len(usable) == 1:
            return usable[0]
        if usable:
            names = ", ".join(f"adb:{entry.serial} ({entry.model})" for entry in usable)
            raise NoDeviceError(f"more than one device is connected: {names}. Name one with --target, or take --target all.")
        if entries:
            raise NoDeviceError(" ".join(entry.problem() for entry in entries))
        raise NoDeviceError("no Android device is connected. Switch on USB debugging in its developer options and connect it, or "
                            "adb connect HOST:PORT; adb devices must list it.")


class AdbDevice(RemoteDevice):
    """One device.

    Args:
        adb: the client.
        serial: the device's.
    """

    kind = "adb"
    base = "/data/local/tmp"

    def __init__(self, adb: Adb, serial: str):
        super().__init__(serial)
        self.adb, self.serial = adb, serial

    def execute(self, script: str, seconds: float) -> tuple[str, str]:
        done = self.adb.run("-s", self.serial, "shell", script, seconds=seconds)
        return done.stdout, done.stderr

    def push(self, local: Path, remote: str, *, executable: bool = False, seconds: float = 300.0) -> None:
        done = self.adb.run("-s", self.serial, "push", str(local), remote, seconds=seconds)
        text = done.stdout + done.stderr
        if done.returncode or re.search(r"\b(failed|error):|: error:", text):
            raise self.push_error(local, remote, text)
        # adb keeps the host's bits, which a file from a wheel need not have.
        mode = f"chmod 755 {shlex.quote(remote)} && " if executable else ""
        self.compare_digest(local, remote, self.check(f"{mode}{{ {digest_script(remote)}; }}"))

    def pull(self, remote: str, local: Path, *, seconds: float = 300.0) -> None:
        done = self.adb.run("-s", self.serial, "pull", remote, str(local), seconds=seconds)
        if done.returncode or not local.is_file():
            self.raise_if_lost(done.stderr + done.stdout, f"pull {remote}")
            raise KitError(f"{self.serial}: {remote} cannot be read: {last_line(done.stderr or done.stdout)}")

    def raise_if_lost(self, text: str, doing: str) -> None:
        """Turns adb's own messages into ours; the wording differs between its versions, the end of it does not."""
        low = text.lower()
        for words, state in (("unauthorized", "unauthorized"), ("device offline", "offline"),
                             ("no permissions", "no permissions"), ("insufficient permissions", "no permissions")):
            if words in low:
                raise NoDeviceError(DeviceEntry(self.serial, state).problem())
        if re.search(r"device '.*' not found", low):
            raise DeviceLost(f"{self.serial}: the device is gone ({doing}). Reconnect it, and run again.")
        if any(words in low for words in _LOST):
            raise DeviceLost(f"{self.serial}: the connection broke ({doing}): {last_line(text)}. Reconnect it, and run again.")


_LOST = ("couldn't read from device", "protocol fault", "connection reset", "error: closed", "failed to read", "broken pipe",
         "device disconnected", "connect failed", "eof")


def connect(adb: Adb, address: str) -> DeviceEntry:
    """`adb connect`, believed only when the device says that it is there.

    Raises:
        InputError: the address is malformed.
        NoDeviceError: nothing answers there, or the device refuses.
    """
    if not re.fullmatch(r"[^\s:]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?", address):
        raise InputError(f"{address!r}: is not an address. Give HOST:PORT, such as 192.168.1.20:5555.")
    done = adb.run("connect", address, seconds=20)
    entry = next((entry for entry in adb.devices() if entry.serial in (address, f"{address}:5555")), None)
    if entry is None:
        raise NoDeviceError(f"{address}: adb cannot connect: {last_line(done.stdout + done.stderr)}")
    if not entry.usable:
        raise NoDeviceError(entry.problem())
    return entry
