"""A real adbd of Android (Debian's package), in a sandbox: its own network, for it binds everywhere and asks nobody.

It has a root of its own too, in which this machine's files are read-only: adbd may run as whoever runs the tests, root included.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from device_lab.downloads import NotHere, debian_packages, loader_of
from device_lab.keeper import default_hangup, keep, mark
from device_lab.phone import SimulatedPhone
from device_lab.tree import write_tree
from device_lab.waiting import wait

PORT = 5555
# In namespaces of its own: a new root of the phone's folders, with this machine's programs read-only; adbd in it; the relay.
_START = r"""
set -e
ip link set lo up 2>/dev/null || true
N="$R/sandbox"; mkdir -p "$N"; mount -t tmpfs phone "$N"
for d in usr etc bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$d" ]; then cp -P "/$d" "$N/$d"
  elif [ -d "/$d" ]; then mkdir "$N/$d"; mount --rbind "/$d" "$N/$d"; mount -o remount,bind,ro "$N/$d" 2>/dev/null || true; fi
done
for d in dev proc; do mkdir "$N/$d"; mount --rbind "/$d" "$N/$d"; done
for d in data sdcard system sys; do mkdir "$N/$d"; mount --bind "$R/$d" "$N/$d"; done
mount --bind "$R/proc/cpuinfo" "$N/proc/cpuinfo"
mkdir "$N/adbd" "$N/tmp"; mount --rbind "$ADBD" "$N/adbd"; mount -o remount,ro "$N"
C=$(command -v chroot)
export PATH=/system/bin:/usr/bin:/bin ADBD_PORT=$PORT SYSROOT=
"$C" "$N" "/adbd/$LD" --library-path "$L" "/adbd/$P" > "$R/adbd.log" 2>&1 &
exec "$PY" "$RELAY" unix "$R/socket" "$PORT"
"""
_NEEDED = ("unshare", "mount", "chroot", "ip")


class NoSandbox(NotHere):
    """What is missing here for a real adbd."""


class RealPhone(SimulatedPhone):
    """A real adbd over a phone's file tree; a context manager.

    Args:
        root: the phone's folder.

    Raises:
        NotHere: adbd cannot be had, namespaces are not allowed here, or a program for them is missing.
    """

    def __init__(self, root: Path):
        keep()
        self.root = root
        self._outside: subprocess.Popen[str] | None = None
        missing = [name for name in _NEEDED if not shutil.which(name, path=_PATH)]
        if missing:
            raise NoSandbox(f"{', '.join(missing)}: not installed (Debian: util-linux, iproute2)")
        # Debian 13 carries adbd; its whole library closure lies beside it, so that it runs on any Linux of this processor.
        adbd = debian_packages(["adbd"], "trixie")
        loader, folders = loader_of(adbd)
        write_tree(root)
        (root / "sdcard").mkdir(exist_ok=True)
        relay = Path(__file__).with_name("relay.py")
        variables = {"R": str(root), "PORT": str(PORT), "LD": str(loader.relative_to(adbd)), "ADBD": str(adbd), "PATH": _PATH,
                     "L": ":".join(f"/adbd/{folder.relative_to(adbd)}" for folder in folders), "PY": sys.executable,
                     "RELAY": str(relay), **mark(),
                     "P": "usr/lib/android-sdk/platform-tools/adbd"}
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        self._process = subprocess.Popen(
            [*default_hangup(), "unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             "bash", "-c", _START], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait(lambda: (root / "socket").exists() or self._process.poll() is not None)
        if not (root / "socket").exists():
            ended = self._process.poll() is not None
            self._process.kill()
            said = self._process.communicate()[1].strip().splitlines() if ended else []
            raise NoSandbox(f"no namespaces for a real adbd: {said[-1] if said else 'it does not start'}")
        words = [sys.executable, str(relay), "tcp", str(root / "socket")]
        self._outside = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._outside.stdout is not None
        self.serial = f"127.0.0.1:{self._outside.stdout.readline().split()[1]}"

    def __enter__(self) -> "RealPhone":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def files(self) -> list[str]:
        """Everything below /data/local/tmp."""
        base = self.root / "data/local/tmp"
        return sorted(str(path.relative_to(base)) for path in base.rglob("*"))

    def processes(self) -> list[int]:
        """What runs in the sandbox beside adbd and the relay."""
        inside: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    words = (entry / "stat").read_text().rpartition(")")[2].split()
                    if words[0] != "Z":
                        inside[int(entry.name)] = int(words[1])
        relay = next((pid for pid, parent in inside.items() if parent == self._process.pid), None)
        space = _space(relay) if relay else ""
        adbd = {pid for pid, parent in inside.items() if parent == relay and b"/adbd/" in _command(pid)}
        return sorted(pid for pid in inside if space and pid != relay and pid not in adbd and _space(pid) == space)

    def close(self) -> None:
        """Switches it off, with everything in it."""
        for process in (self._outside, self._process):
            if process is not None:
                process.kill()
                process.wait()
                for pipe in (process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()


_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def _space(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return ""


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
