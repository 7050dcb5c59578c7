"""TFLite's `benchmark_model`: the user's own, or downloaded once from an official address and never silently replaced."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnv3_tf.downloads import download, wrong_hash
from mnv3_tf.errors import InputError
from mnv3_tf.files import cache_folder, read_bytes, read_json, sha256, write_json
from mnv3_tf.progress import Progress

System = Literal["android", "linux"]
Dialect = Literal["tflite", "litert"]


@dataclass(frozen=True)
class Binary:
    """A `benchmark_model` on this machine.

    Attributes:
        path: the file.
        sha256: of its bytes.
        version: as upstream calls it, or "given".
        dialect: whose flags it takes: "tflite", or "litert" (the newer tool); None where that must be tried.
    """

    path: Path
    sha256: str
    version: str
    dialect: Dialect | None


def benchmark_binary(system: System, architecture: str, *, given: str | Path | None = None, progress: Progress) -> Binary:
    """The program for a device.

    Args:
        system, architecture: the device's.
        given: the user's own file.
        progress: told of a download, and of what its hash is compared with.

    Raises:
        InputError: the given file is not for this architecture, or there is no address for it.
        KitError: the download failed, or other bytes came than the table or an earlier download says.
    """
    if given is not None:
        _check_elf(Path(given), architecture)
        return Binary(Path(given), sha256(given), "given", None)
    entry = next((entry for entry in _table() if (entry["system"], entry["architecture"]) == (system, architecture)), None)
    if entry is None:
        raise InputError(f"there is no address for a benchmark_model for {system} on {architecture}. Give one with "
                         "--benchmark-binary PATH, or take the kit's own runner (--runner kit).")
    return _download(entry, progress)


def _table() -> list[dict[str, Any]]:
    return list(read_json(Path(__file__).with_name("binaries.json"))["binaries"])


def _download(entry: dict[str, Any], progress: Progress) -> Binary:
    folder = cache_folder() / "benchmark_model"
    known_file = folder / "downloads.json"
    known: dict[str, str] = read_json(known_file) if known_file.exists() else {}
    wanted = entry["sha256"] or known.get(entry["url"])
    origin, remedy = (("the table of this kit", "upstream changed the file: look at it, then give it with --benchmark-binary")
                      if entry["sha256"] else ("the download of an earlier day", "if the change is known and wanted, remove the "
                      f"line from {known_file}"))
    says = f"{origin} says {wanted} ({remedy})"

    def wrong(path: Path) -> str:
        problem = wrong_hash(path, wanted or "", says)
        if not problem:
            _check_elf(path, entry["architecture"])
        return problem

    kept = folder / (wanted or "benchmark_model")
    if wanted is None or not kept.is_file() or wrong_hash(kept, wanted, says):
        progress.say(f"Downloading {entry['url']}")
        download([entry["url"]], kept, wrong, ". Without the internet, take the kit's own runner (--runner kit), or give the "
                 "file with --benchmark-binary PATH.")
        kept.chmod(0o755)
    if wanted is None:
        wanted = sha256(kept)
        progress.say(f"Upstream publishes no SHA-256 for this file, so this first download is trusted: {wanted}. From now on "
                     "no other is taken from that address.")
        kept = kept.replace(folder / wanted)
        write_json(known_file, {**known, entry["url"]: wanted})
    return Binary(kept, wanted, entry["version"], entry["dialect"])


# e_machine of ELF files, by architecture.
_MACHINES = {"aarch64": 183, "arm": 40, "x86_64": 62, "x86": 3}


def _check_elf(path: Path, architecture: str) -> None:
    """Refuses a file that the device cannot execute."""
    head = read_bytes(path)[:20]
    if head[:4] != b"\x7fELF":
        raise InputError(f"{path}: is not a program for a device (not an ELF file). Give the benchmark_model of the "
                         "device's kind.")
    machine = int.from_bytes(head[18:20], "little")
    if machine != _MACHINES.get(architecture):
        name = next((name for name, number in _MACHINES.items() if number == machine), f"machine {machine}")
        raise InputError(f"{path}: is a program for {name}, and the device is {architecture}. Give the one of the device's kind.")
