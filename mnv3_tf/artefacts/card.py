"""The card of an artefact: a small JSON file that says what it is, what it was made from, and by what a change is noticed.

The card of a run is ``run.json`` in its folder, that of ``m.tflite`` or of imported weights ``m.keras`` is ``m.card.json``
beside it. Every card holds:

- ``kind``: "float run", "quantized run", "imported weights" or "tflite"; ``card_format``: the number of this description;
  ``written``: UTC.
- ``classes``: class names; ``preprocessing``: the contract's fingerprint.
- ``files``: the SHA-256 of each of the artefact's own files, by name.
- ``parent``: what it was made from (null for a float run): ``kind``, the folder as an absolute path (``run``) and as a path
  from this artefact's folder (``relative``), ``file`` and ``sha256`` of its weights, and its own ``parent`` where it has one.
- ``metrics``: by split, ``top1``, ``samples``, ``loss``, ``balanced_accuracy``, ``precision`` and ``f1``; empty for a `.tflite`
  file, and where pictures had no labels.
- ``versions`` of the libraries, and ``machine``.

A float run's card has ``weights`` where it started from others (``source``, ``file``, ``sha256``, the layers ``taken`` and
``new``), and ``teacher`` where it had one; they need not be there any more, so neither is a parent. A run's card adds
``config``, ``seeds`` and ``data`` (by split: a fingerprint of names and contents, and the number of pictures); a quantized run's
adds ``calibration`` (the same for the pictures that calibrated it); a `.tflite` file's adds ``format``, ``io``, ``lowering``,
``partitions``, and the types of input and output; that of imported weights ``model``, ``origin``, ``source`` (file and SHA-256),
``mean`` and ``std`` of the input, ``class_count`` and ``include_top``.
"""

import contextlib
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from mnv3_tf.data import PictureDataset, Preprocessing, ScanReport, write_labels
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json, sha256, write_json
from mnv3_tf.machine import cpu_model

CARD_FORMAT = 1
Sidecar = Literal["preprocessing.json", "labels.txt", "config.yaml", "card.json"]
# The entries of a card that name other artefacts: what it was made from, and, for a run made from two, the second.
PARENTS = ("parent", "quantized_parent")
# Weights that lie in a run folder: such a parent is the folder.
RUN_WEIGHTS = ("model.keras", "quantized.npz")
_PACKAGES = ("mnv3-tf", "tensorflow", "keras", "tf-keras", "tensorflow-model-optimization", "ai-edge-litert", "jax", "numpy",
             "Pillow")


class Search(NamedTuple):
    """Where a parent was looked for.

    Attributes:
        file: the weights that the card names; None where they are in none of the places that it names.
        tried: these places in words, with what is there instead.
        replaced: another file of that name is there.
    """

    file: Path | None
    tried: str
    replaced: bool


def stands_alone(artefact: Path) -> bool:
    """Whether it belongs to no run, so that what lies beside it is called after it: a `.tflite`, or an imported `.keras` file."""
    if artefact.suffix == ".keras" and not artefact.is_dir():
        return artefact.with_name(f"{artefact.stem}.card.json").exists()
    return artefact.suffix == ".tflite" and not artefact.is_dir()


def sidecar(artefact: str | Path, kind: Sidecar) -> Path:
    """Where the card, the class names or the preprocessing contract of an artefact lie.

    ``m.card.json`` beside a file that stands alone; ``run.json`` (and ``labels.txt``, ``preprocessing.json``) in a run folder.
    """
    artefact = Path(artefact)
    if stands_alone(artefact):
        return artefact.with_name(f"{artefact.stem}.{kind}")
    return folder_of(artefact) / ("run.json" if kind == "card.json" else kind)


def read_card(artefact: str | Path) -> dict[str, Any] | None:
    """The card of an artefact, or None where it has none.

    Raises:
        InputError: the card cannot be read, or is not a JSON object.
    """
    artefact = Path(artefact)
    path = sidecar(artefact, "card.json")
    if not path.exists() or not (artefact.is_dir() or artefact.name in RUN_WEIGHTS or stands_alone(artefact)):
        return None
    card = read_json(path)
    if not isinstance(card, dict):
        raise InputError(f"{path}: is not a card (a JSON object is expected). Make the artefact again.")
    return card


def make_card(folder: Path, files: Iterable[Path], **facts: Any) -> dict[str, Any]:
    """The content of a card.

    Args:
        folder: that the artefact lies in.
        files: the artefact's own files, written already.
        facts: what only its maker knows: ``kind``, ``classes``, ``preprocessing``, ``metrics`` and so on; a ``parent`` is given
            as the path of the weights.
    """
    entries = {key: parent_entry(facts[key], folder) for key in PARENTS if facts.get(key) is not None}
    return {"kind": facts["kind"], "card_format": CARD_FORMAT, "written": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts, "metrics": facts.get("metrics", {}), "files": {file.name: sha256(file) for file in files},
            "parent": None, **entries, "versions": library_versions(), "machine": machine()}


def write_beside(file: Path, labels: Sequence[str] | None, contract: Preprocessing | None, /, **facts: Any) -> None:
    """Writes ``m.labels.txt``, ``m.preprocessing.json`` and ``m.card.json`` beside ``m.tflite`` or ``m.keras``.

    What is not known is not left there either.

    Args:
        file: written already.
        labels, contract: class names and preprocessing; None where they are not known.
        facts: for :func:`make_card`.
    """
    names, rule, card = (file.with_name(f"{file.stem}.{kind}") for kind in ("labels.txt", "preprocessing.json", "card.json"))
    if labels:
        write_labels(names, labels)
    else:
        names.unlink(missing_ok=True)
    if contract:
        contract.save(rule)
    else:
        rule.unlink(missing_ok=True)
    write_json(card, make_card(file.parent, [own for own in (file, names, rule) if own.exists()], **facts))


def data_facts(dataset: PictureDataset, report: ScanReport) -> dict[str, dict[str, Any]]:
    """What a card says about the pictures of a scanned and cleaned dataset: split -> fingerprint and number."""
    return {split: {"fingerprint": report.fingerprints[split], "pictures": len(samples)}
            for split, samples in dataset.splits.items()}


def parent_entry(weights: Path, folder: Path) -> dict[str, Any]:
    """What the card of an artefact in `folder` says about the file that it was made from."""
    weights = weights.resolve()
    try:
        card = read_card(weights) or {}
    except InputError:  # what it was made from cannot be said; the check of the parent names the damage
        card = {}
    entry = {"kind": card.get("kind"), **_place(weights.parent, folder), **fingerprint(weights)}
    above = card.get("parent")
    if isinstance(above, Mapping) and isinstance(above.get("file"), str):
        file = look_for(above, weights.parent).file
        run = file.parent if file else above.get("run")
        entry["parent"] = {"kind": above.get("kind"), **(_place(Path(run), folder) if run else {}),
                           "file": above["file"], "sha256": above.get("sha256")}
    return entry


def look_for(entry: Mapping[str, Any], folder: Path) -> Search:
    """Looks for the weights that a parent's entry names.

    Args:
        entry: of the card.
        folder: that the card's artefact lies in.
    """
    places = {}
    if isinstance(entry.get("run"), str):
        places["absolute path"] = Path(entry["run"])
    if isinstance(entry.get("relative"), str):
        places["relative path"] = Path(os.path.normpath(folder.resolve() / PurePosixPath(entry["relative"])))
    tried, replaced = [], False
    for how, place in places.items():
        file = place / str(entry.get("file"))
        found = sha256(file) if file.is_file() else None
        if found is not None and found == entry.get("sha256"):
            return Search(file, "", False)
        replaced = replaced or found is not None
        state = "there is no such file" if found is None else f"holds another file (SHA-256 {found[:12]}...)"
        tried.append(f"{file} ({how}): {state}")
    return Search(None, "; ".join(tried), replaced)


def find_parent(artefact: str | Path) -> Path | None:
    """What an artefact was made from.

    Args:
        artefact: a run folder, the weights in one, or a `.tflite` file.

    Returns:
        The run folder, or the `.keras` file where it belongs to no run; None where there is no card, or it names no parent.

    Raises:
        InputError: the card names a parent that is in none of the places that it names, or that has changed since.
    """
    artefact = Path(artefact)
    entry = (read_card(artefact) or {}).get("parent")
    return None if entry is None else _find(entry, artefact)


def find_float_run(artefact: str | Path) -> Path | None:
    """The float run at the root of an artefact, found also where the quantized run between them is gone.

    Args and Raises: as :func:`find_parent`.

    Returns:
        The float run's folder (`artefact` itself, if it is one); None where the cards do not say.
    """
    artefact = Path(artefact)
    card = read_card(artefact)
    if card is None:
        return None
    entry = card.get("parent")
    if entry is None:
        return artefact if card.get("kind") == "float run" else None
    try:
        parent = _find(entry, artefact)
    except InputError:
        above = entry.get("parent") if isinstance(entry, Mapping) else None
        if above is None:
            raise
        return _find(above, artefact)
    return parent if entry.get("kind") == "float run" or entry.get("file") == "model.keras" else find_float_run(parent)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the numbers, of those installed."""
    versions = {"python": platform.python_version(), "mnv3-tf": "source"}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def machine() -> dict[str, str]:
    """What of the machine can change the last bit of a number."""
    return {"cpu": cpu_model(), "architecture": platform.machine(), "system": platform.system()}


def fingerprint(path: Path) -> dict[str, str]:
    """Name and SHA-256 of an artefact, for the card of what is made from it."""
    return {"file": path.name, "sha256": sha256(path)}


def folder_of(artefact: Path) -> Path:
    """The folder that the relative paths of an artefact's card start from."""
    return artefact if artefact.is_dir() else artefact.parent


def _find(entry: Any, artefact: Path) -> Path:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str):
        raise InputError(f"{sidecar(artefact, 'card.json')}: its entry about the parent is damaged. Make {artefact} again.")
    found = look_for(entry, folder_of(artefact))
    if found.file is not None:
        return found.file.parent if found.file.name in RUN_WEIGHTS else found.file
    tried = found.tried or "nothing, because the card does not say where it was"
    raise InputError(f"{artefact}: was made from {entry['file']} with SHA-256 {str(entry.get('sha256'))[:12]}..., which cannot "
                     f"be found. Tried: {tried}. Put that file back, or make {artefact.name} again from what is there.")


def _place(run: Path, folder: Path) -> dict[str, str]:
    """A run's folder as an absolute path, and as a path from another folder where there is one (not across drives)."""
    run, folder = run.resolve(), folder.resolve()
    try:
        return {"run": str(run), "relative": Path(os.path.relpath(run, folder)).as_posix()}
    except ValueError:
        return {"run": str(run)}
