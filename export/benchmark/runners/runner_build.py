"""Makes the kit's own runner for a device: compiled on demand, with LiteRT's library and what that needs beside it; and the
plugin that counts what an emulated processor executes."""

import contextlib
import ctypes
import functools
import hashlib
import io
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from mnv3_tf.downloads import download, wrong_hash
from mnv3_tf.errors import InputError, KitError, NoDeviceError
from mnv3_tf.files import cache_folder, read_json, sha256
from mnv3_tf.progress import Progress, Silent

_HERE = Path(__file__).parent
PROGRAM, LIBRARY = "kit_runner", "libLiteRt.so"
_SOURCES = ("kit_runner.c", "kit_operators.c")
_COUNTER = "instruction_counter.c"
_OTHERWISE = "; phones and boards can also be measured with --runner benchmark_model"
# The oldest GNU C library that the program runs on; the library beside it asks for more.
_GLIBC = "2.27"
_WHEEL_PLATFORMS = {"aarch64": ("manylinux_2_27_aarch64", "manylinux2014_aarch64"),
                    "x86_64": ("manylinux_2_27_x86_64", "manylinux2014_x86_64")}
_LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libstdc++.so.6", "libgcc_s.so.1")


@dataclass(frozen=True)
class RunnerBundle:
    """What is copied to a device.

    Attributes:
        loader: name of the dynamic loader among the files.
        files: name on the device -> file here.
        sha256: of the program's and the library's bytes together.
        version: of the runtime, such as "LiteRT 2.3.0".
        through: words that start a program there, such as an emulator's.
    """

    loader: str
    files: dict[str, Path]
    sha256: str
    version: str
    through: tuple[str, ...] = ()

    def command(self, folder: str) -> list[str]:
        """The words that start the program in a folder of the device, up to and with the library."""
        return [*self.through, f"{folder}/{self.loader}", "--library-path", folder, f"{folder}/{PROGRAM}", f"{folder}/{LIBRARY}"]


def build_runner(architecture: str, progress: Progress) -> RunnerBundle:
    """Compiles the runner, or takes it from the cache.

    Args:
        architecture: "aarch64" or "x86_64".
        progress: told of compiling and of downloads.

    Raises:
        InputError: there is no library for this architecture.
        KitError: the compiler is missing, a download failed, or the cache cannot be written.
    """
    if architecture not in _WHEEL_PLATFORMS:
        raise InputError(f"the kit's runner is for {' and '.join(_WHEEL_PLATFORMS)}, and the device is {architecture}: LiteRT is "
                         "published for no other. Take --runner benchmark_model.")
    version = metadata.version("ai-edge-litert")
    folder = cache_folder() / "runner" / architecture
    loader = str(_table()[architecture]["loader"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            program, library = _compile(architecture, folder, progress), _library(architecture, version, folder, progress)
            files = {PROGRAM: program, LIBRARY: library, **_runtime(architecture, loader, folder, progress)}
    except OSError as error:
        raise _unwritable(folder, error) from error
    digest = hashlib.sha256((sha256(program) + sha256(library)).encode()).hexdigest()
    return RunnerBundle(loader, files, digest, f"LiteRT {version}")


def _unwritable(folder: Path, error: OSError) -> KitError:
    return KitError(f"{folder}: the kit's runner cannot be kept there ({error.strerror or error}). Free some space, or name a "
                    "folder that you may write to with XDG_CACHE_HOME.")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one thread of one process at a time make what is missing in a folder; the others find it made.

    Windows has no such lock: there it may be made twice.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no such locks; then it may be made twice
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _table() -> dict[str, Any]:
    return dict(read_json(_HERE / "runtime_libraries.json"))


def build_counter(interface: int) -> Path:
    """The plugin of qemu that counts instructions, compiled for this machine or taken from the cache.

    Args:
        interface: the version of qemu's plugin interface.

    Raises:
        KitError: the compiler is missing, or the cache cannot be written.
    """
    folder = cache_folder() / "runner" / platform.machine()
    words = ["-shared", "-fPIC", f"-DPLUGIN_API={interface}"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            return _compiled("instruction_counter", (_COUNTER,), words, platform.machine(), folder, Silent())
    except OSError as error:
        raise _unwritable(folder, error) from error


def _compile(architecture: str, folder: Path, progress: Progress) -> Path:
    words = ["-s", "-rdynamic", "-target", f"{architecture}-linux-gnu.{_GLIBC}", "-ldl"]
    return _compiled(PROGRAM, _SOURCES, words, architecture, folder, progress)


def _compiled(name: str, sources: tuple[str, ...], words: list[str], architecture: str, folder: Path,
              progress: Progress) -> Path:
    """What is made of the first of the sources, which includes the others."""
    if util.find_spec("ziglang") is None:
        raise NoDeviceError("the compiler for the kit's runner is not installed. Install it: pip install ziglang (the extra "
                            f"`device`){_OTHERWISE}.")
    content = b"".join((_HERE / source).read_bytes() for source in sources)
    made_by = " ".join((metadata.version("ziglang"), *words)).encode()
    kept = folder / f"{name}-{hashlib.sha256(content + made_by).hexdigest()[:16]}"
    if kept.is_file():
        return kept
    progress.say(f"Compiling the kit's runner for {architecture}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as store:
        made = Path(store) / name
        command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-std=c11", "-D_GNU_SOURCE", *words, sources[0], "-o", str(made)]
        done = subprocess.run(command, cwd=_HERE, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            reason = next((line for line in lines if "error:" in line), lines[-1])
            raise KitError(f"the kit's runner cannot be compiled for {architecture}: {reason}. Reinstall ziglang{_OTHERWISE}.")
        return made.replace(kept)


def _library(architecture: str, version: str, folder: Path, progress: Progress) -> Path:
    """LiteRT's library: the installed one, or out of the wheel of the same version for the other architecture."""
    if architecture == platform.machine() and sys.platform == "linux":
        import ai_edge_litert

        return Path(next(iter(ai_edge_litert.__path__))) / LIBRARY
    kept = folder / f"{LIBRARY}-{version}"
    if kept.is_file():
        return kept
    progress.say(f"Downloading ai-edge-litert {version} for {architecture}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as store:
        platforms = [word for name in _WHEEL_PLATFORMS[architecture] for word in ("--platform", name)]
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
                 "--only-binary=:all:", *platforms, "--dest", store, f"ai-edge-litert=={version}"]
        done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace")
        wheels = list(Path(store).glob("*.whl"))
        if done.returncode or not wheels:
            raise KitError(f"ai-edge-litert {version} for {architecture} cannot be downloaded by pip: "
                           f"{(done.stderr.strip().splitlines() or ['no message'])[-1]}. Check the network and pip's index, or "
                           "take --runner benchmark_model.")
        with zipfile.ZipFile(wheels[0]) as wheel:
            (Path(store) / LIBRARY).write_bytes(wheel.read(f"ai_edge_litert/{LIBRARY}"))
        return (Path(store) / LIBRARY).replace(kept)


def _runtime(architecture: str, loader: str, folder: Path, progress: Progress) -> dict[str, Path]:
    """The dynamic loader and the C and C++ libraries."""
    if architecture == platform.machine() and sys.platform == "linux":
        own = _own_libraries(loader)
        if own is not None:
            return own
    table = _table()
    packages = "".join(package["sha256"] for package in table[architecture]["packages"])
    kept = folder / f"libraries-{hashlib.sha256(packages.encode()).hexdigest()[:16]}"
    names = [loader, *_LIBRARIES]
    if not all((kept / name).is_file() for name in names):
        progress.say(f"Downloading the C and C++ libraries for {architecture}")
        bases = [os.environ["MNV3_DEBIAN"]] if os.environ.get("MNV3_DEBIAN") else table["bases"]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as store:
            for package in table[architecture]["packages"]:
                digest = package["sha256"]
                archive = folder / "packages" / digest
                wrong = functools.partial(wrong_hash, digits=digest, says=f"{digest} is expected")
                if not archive.is_file() or wrong(archive):
                    download([f"{base}/{package['path']}" for base in bases], archive, wrong)
                unpack_deb(archive, Path(store), names)
            missing = [name for name in names if not (Path(store) / name).is_file()]
            if missing:
                raise KitError(f"the packages for {architecture} lack {', '.join(missing)}.")
            kept.mkdir(exist_ok=True)
            for name in names:
                (Path(store) / name).replace(kept / name)
    return {name: kept / name for name in names}


def _own_libraries(loader: str) -> dict[str, Path] | None:
    """This machine's own, where it has all of them (a musl system has not)."""
    found: dict[str, Path] = {}
    for name in _LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            return None
    mapped = set(re.findall(r"(/\S+)$", Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"), re.MULTILINE))
    for name in (loader, *_LIBRARIES):
        stem = name.split(".so")[0]
        path = next((Path(line) for line in sorted(mapped) if Path(line).name == name or
                     re.fullmatch(rf"{re.escape(stem)}[-.0-9]*\.so[.0-9]*", Path(line).name)), None)
        if path is None:
            return None
        found[name] = path
    return found


def unpack_deb(archive: Path, folder: Path, names: list[str]) -> None:
    """Takes files by name out of a Debian package, wherever in it they lie; links are followed inside the package.

    Raises:
        KitError: the file is not a Debian package, or a link in it leads out of it.
    """
    content = archive.read_bytes()
    if content[:8] != b"!<arch>\n":
        raise KitError(f"{archive}: is not a Debian package.")
    place = 8
    while place + 60 <= len(content):
        name, size = content[place:place + 16].decode("ascii").strip().rstrip("/"), int(content[place + 48:place + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content[place + 60:place + 60 + size])) as members:
                for item in members.getmembers():
                    if item.issym() and item.linkname.startswith("/"):  # the root of the package
                        item.linkname = os.path.relpath(item.linkname, os.path.join("/", os.path.dirname(item.name)))
                for item in members.getmembers():
                    if Path(item.name).name in names:
                        try:
                            source = members.extractfile(item)
                        except (KeyError, RecursionError):
                            raise KitError(f"{archive}: its link {item.name} leads to no file of the package.") from None
                        if source is not None:
                            (folder / Path(item.name).name).write_bytes(source.read())
        place += 60 + size + size % 2
