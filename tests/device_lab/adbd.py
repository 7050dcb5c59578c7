"""A real adbd of Android (Debian's package), in a sandbox: its own network, for it binds everywhere and asks nobody."""

import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

from device_lab.phone import SimulatedPhone
from device_lab.tree import write_tree

PORT = 5555
# Debian 13 carries adbd; its whole library closure lies beside it, so that it runs on any x86_64 Linux.
_FETCH = r"""
set -e
D=$1; mkdir -p "$D"/apt/lists/partial "$D"/apt/cache/archives/partial; : > "$D/apt/status"
MIRROR=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -1)
echo "deb ${MIRROR:-http://deb.debian.org/debian} trixie main" > "$D/apt/sources.list"
O="-o Dir::Etc::sourcelist=$D/apt/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$D/apt/lists
-o Dir::Cache=$D/apt/cache -o Dir::State::status=$D/apt/status -o APT::Install-Recommends=false -o APT::Sandbox::User=root
-o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false"
apt-get $O -qq update; apt-get $O -qq -y --download-only install adbd
for d in "$D"/apt/cache/archives/*.deb; do dpkg -x "$d" "$D"; done; rm -rf "$D/apt"
"""
# In namespaces of its own: loopback up, the phone's folders over this machine's, adbd, and the relay.
_START = r"""
set -e
ip link set lo up 2>/dev/null || true
mkdir -p /data /system
mount --bind "$R/data" /data; mount --bind "$R/system" /system
mount --bind "$R/sys/devices/system/cpu" /sys/devices/system/cpu 2>/dev/null || true
export PATH=/system/bin:/usr/bin:/bin ADBD_PORT=$PORT SYSROOT=
"$LD" --library-path "$L:$L/android" "$ADBD" > "$R/adbd.log" 2>&1 &
exec "$PY" "$RELAY" unix "$R/socket" "$PORT"
"""


class NoSandbox(Exception):
    """What is missing here for a real adbd."""


def fetch_adbd(folder: Path) -> Path:
    """The program with its libraries, once for this user.

    Raises:
        NoSandbox: it cannot be had here.
    """
    if not (folder / "complete").exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise NoSandbox("apt-get and dpkg are needed to fetch Debian's adbd")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done = subprocess.run(["bash", "-c", _FETCH, "fetch", str(folder)], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise NoSandbox(f"Debian's adbd cannot be fetched: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        (folder / "complete").touch()
    return folder


class RealPhone(SimulatedPhone):
    """A real adbd over a phone's file tree.

    Args:
        root: the phone's folder.
        adbd: from :func:`fetch_adbd`.

    Raises:
        NoSandbox: namespaces are not allowed here.
    """

    def __init__(self, root: Path, adbd: Path):
        self.root = root
        write_tree(root)
        libraries = adbd / "usr/lib/x86_64-linux-gnu"
        relay = Path(__file__).with_name("relay.py")
        variables = {"R": str(root), "PORT": str(PORT), "L": str(libraries), "LD": str(libraries / "ld-linux-x86-64.so.2"),
                     "ADBD": str(adbd / "usr/lib/android-sdk/platform-tools/adbd"), "PY": sys.executable, "RELAY": str(relay),
                     "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        # Mount points must exist outside of the namespace too; those that are made for it are removed at the end.
        self._made = [Path(name) for name in ("/data", "/system") if not Path(name).exists()]
        words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", _START]
        self._process = subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 10
        while not (root / "socket").exists():
            if self._process.poll() is not None or time.monotonic() > until:
                reason = self._process.communicate()[1] if self._process.poll() is not None else "it does not start"
                self._process.kill()
                raise NoSandbox(f"no namespaces for a real adbd: {reason.strip().splitlines()[-1:]}")
            time.sleep(0.05)
        self._outside = subprocess.Popen([sys.executable, str(relay), "tcp", str(root / "socket")], stdout=subprocess.PIPE,
                                         text=True)
        assert self._outside.stdout is not None
        self.serial = f"127.0.0.1:{self._outside.stdout.readline().split()[1]}"

    def close(self) -> None:
        for process in (self._outside, self._process):
            process.kill()
            process.wait()
        for pipe in (self._outside.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        for folder in self._made:
            with contextlib.suppress(OSError):
                folder.rmdir()
