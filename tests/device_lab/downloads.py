"""What tests download, kept between their sessions: in $MNV3_TEST_DOWNLOADS, or ~/.cache/mnv3-tf-tests."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_SECONDS = 180
# Packages with all that they need, whatever is installed here; apt checks the archive's signature and their SHA-256.
_FETCH = r"""
set -e
D=$1; SUITE=$2; shift 2; mkdir -p "$D"/apt/lists/partial "$D"/apt/cache/archives/partial; : > "$D/apt/status"
MIRROR=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -1)
echo "deb ${MIRROR:-http://deb.debian.org/debian} $SUITE main" > "$D/apt/sources.list"
O="-o Dir::Etc::sourcelist=$D/apt/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$D/apt/lists
-o Dir::Cache=$D/apt/cache -o Dir::State::status=$D/apt/status -o APT::Install-Recommends=false -o APT::Sandbox::User=root
-o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false"
apt-get $O -qq update; apt-get $O -qq -y --download-only install "$@"
for d in "$D"/apt/cache/archives/*.deb; do case "$d" in */perl*|*/libperl*) ;; *) dpkg -x "$d" "$D";; esac; done
rm -r "$D/apt"; rm -rf "$D/usr/share"
"""


class NotHere(Exception):
    """What is missing on this machine for a test."""


def folder_for(name: str, *key: str) -> Path:
    """The folder of a download; another one when the key changes.

    Args:
        name: of what is in it.
        key: all that decides on its content, such as versions and the script that makes it.
    """
    base = Path(os.environ.get("MNV3_TEST_DOWNLOADS") or Path.home() / ".cache" / "mnv3-tf-tests")
    return base / f"{name}-{hashlib.sha256('|'.join(key).encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time in; the lock of a process that is killed is free again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, made at the first time by one process while others wait; one that was not finished is made anew.

    Args:
        folder: from :func:`folder_for`.
        make: fills a folder that does not exist yet.
    """
    with locked(folder):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            (folder / "complete").touch()
    return folder


def debian_packages(packages: Sequence[str], suite: str) -> Path:
    """Debian packages with their whole library closure, unpacked, not installed.

    Args:
        packages: their names.
        suite: Debian's, such as "bookworm".

    Raises:
        NotHere: they cannot be had here.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise NotHere(f"apt-get and dpkg are needed to fetch Debian's {' and '.join(packages)}")

    def make(folder: Path) -> None:
        try:
            done = subprocess.run(["bash", "-c", _FETCH, "fetch", str(folder), suite, *packages], capture_output=True, text=True,
                                  timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise NotHere(f"Debian's {' and '.join(packages)} cannot be fetched within {_SECONDS} seconds") from None
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise NotHere(f"Debian's {' and '.join(packages)} cannot be fetched: {said[-1]}")

    return kept(folder_for(packages[0], suite, _FETCH, *packages), make)


def loader_of(unpacked: Path) -> tuple[Path, list[Path]]:
    """The dynamic loader among unpacked packages, and the folders of their libraries.

    Raises:
        NotHere: they are for another machine.
    """
    loader = next((path for path in sorted(unpacked.rglob("ld-linux*.so*")) if "64" in path.name and path.is_file()), None)
    if loader is None:
        raise NotHere(f"{unpacked}: holds no programs for this machine; remove the folder, and it is fetched again")
    found = {path.parent for path in unpacked.rglob("*.so*") if re.search(r"\.so(\.|$)", path.name) and "linux-gnu" in str(path)}
    return loader, sorted(path for path in found if path.name.endswith("linux-gnu") or path.name == "android")
