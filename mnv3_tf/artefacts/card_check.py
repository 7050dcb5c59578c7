"""Whether an artefact is still what its card says: everything that can be recomputed without running the network."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnv3_tf.artefacts.card import (
    CARD_FORMAT,
    PARENTS,
    Sidecar,
    find_parent,
    folder_of,
    library_versions,
    look_for,
    machine,
    read_card,
    sidecar,
)
from mnv3_tf.config import Config, load_config
from mnv3_tf.data import Preprocessing, read_labels
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain, sha256
from mnv3_tf.metrics import Scores

Severity = Literal["broken", "note"]

# Every card has these; a run's has the second group too, and a quantized run's the third.
_FIELDS = ("kind", "card_format", "classes", "preprocessing", "files", "metrics", "versions", "machine")
_RUN_FIELDS = ("config", "data", "seeds")
_QUANTIZED_FIELDS = ("calibration",)
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class CardRemark:
    """Something that a person should know about an artefact and its card.

    Attributes:
        severity: "broken": the artefact is not what the card says. "note": worth knowing, or cannot be checked.
        subject: the file or folder that it is about.
        text: what the card says, what is there now, what follows, and what to do; without a full stop at the end.
    """

    severity: Severity
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


def check_cards(path: str | Path) -> tuple[CardRemark, ...]:
    """Compares an artefact, and everything that it was made from, with their cards.

    Args:
        path: a run folder, the weights in one, or a `.tflite` file.

    Returns:
        What was found, the artefact's own first, then its parent's; nothing where all of it fits.

    Raises:
        InputError: there is no such artefact.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such run folder or file.")
    remarks: list[CardRemark] = []
    seen: set[Path] = set()
    here: Path | None = path
    while here is not None and here.resolve() not in seen:
        seen.add(here.resolve())
        remarks += _check_one(here)
        try:
            here = find_parent(here)
        except InputError:  # named by the check of the parents
            here = None
    return tuple(remarks)


def check_metrics(card: Mapping[str, Any], split: str, scores: Scores, data_fingerprint: str) -> tuple[CardRemark, ...]:
    """Compares scores that were computed again with the card's.

    Args:
        card: of the model that was scored.
        split: that was scored.
        scores: now.
        data_fingerprint: of the pictures that were scored (`ScanReport.fingerprints`).

    Returns:
        Nothing where the accuracy is the same. On the same kind of machine another accuracy is "broken"; on another, a note.
    """
    subject = f"accuracy on {split}"
    before = _mapping(_mapping(card.get("metrics")).get(split))
    data = _mapping(_mapping(card.get("data")).get(split)).get("fingerprint")
    if not isinstance(before.get("top1"), (int, float)):
        return (_note(subject, "the card holds none, so there is nothing to compare with"),)
    if data is None:
        return (_note(subject, "the card does not say which pictures were scored, so nothing can be compared; an older "
                      "version wrote it, and making the artefact again writes them"),)
    if data != data_fingerprint:
        return (_note(subject, f"the card's was measured on other pictures (fingerprint {_short(data)}, now "
                      f"{_short(data_fingerprint)}), so the two cannot be compared; give the original pictures to compare"),)
    differing = abs(float(before["top1"]) - scores.top1) * scores.samples
    if differing <= _TOLERANCE:
        return ()
    text = (f"the card says {before['top1']:.4f}, now it is {scores.top1:.4f} on the same {scores.samples} pictures: at least "
            f"{max(1, round(differing))} of them got another answer")
    then, now = card.get("machine"), machine()
    if then == now:
        changes = _version_changes(card)
        return (_broken(subject, f"{text}; this is the same kind of machine, so the weights, the preprocessing or the "
                        f"libraries changed{f' ({changes})' if changes else ''}. Run `mnv3 verify` to find which"),)
    where = _mapping(then).get("cpu", "an unnamed machine")
    return (_note(subject, f"{text}; the card's was measured on {where} and this is {now['cpu']}, and another CPU may round "
                  "the last bit differently"),)


def _check_one(artefact: Path) -> list[CardRemark]:
    file = sidecar(artefact, "card.json")
    try:
        card = read_card(artefact)
    except InputError as error:
        return [_broken(file, f"the card cannot be read ({error}), so nothing can be checked; make the artefact again, or "
                        "restore the card")]
    if card is None:
        return [_note(artefact, f"has no card ({file.name}), so what it is and what it was made from cannot be checked; copy "
                      "the card along with it, or make it again")]
    return [*_form(file, card), *_own_files(artefact, card), *_contents(artefact, card),
            *_parents(artefact, card), *_versions(file, card)]


def _form(file: Path, card: dict[str, Any]) -> Iterator[CardRemark]:
    number = card.get("card_format")
    if isinstance(number, int) and number > CARD_FORMAT:
        yield _note(file, f"the card has format {number} and this version knows {CARD_FORMAT}; a newer version wrote it, and "
                    "what it added is not checked")
    kind = card.get("kind")
    expected = _FIELDS + (_RUN_FIELDS if kind != "tflite" else ()) + (_QUANTIZED_FIELDS if kind == "quantized run" else ())
    missing = [key for key in expected if key not in card]
    if missing:
        yield _note(file, f"the card does not hold {', '.join(missing)}, so these are not checked; an older version wrote "
                    "it, and making the artefact again writes them")


def _own_files(artefact: Path, card: dict[str, Any]) -> Iterator[CardRemark]:
    for name, wanted in _files(artefact, card).items():
        file = folder_of(artefact) / name
        if not file.is_file():
            yield _broken(file, "the card names this file and it is gone; restore it, or make the artefact again")
        elif (found := sha256(file)) != wanted and not name.endswith(("labels.txt", "preprocessing.json")):
            yield _broken(file, f"the card says SHA-256 {_short(wanted)}, the file has {_short(found)}: it was changed or "
                          "replaced after it was written, and the scores in the card are not of it. Restore it, or make the "
                          "artefact again")


def _files(artefact: Path, card: dict[str, Any]) -> dict[str, Any]:
    """The artefact's own files -> SHA-256; those of a `.tflite` file are called after it, also where all were renamed."""
    files = dict(_mapping(card.get("files")))
    if not files and "file" in _mapping(card.get("file")):  # of a .tflite file, by an older version
        files = {card["file"]["file"]: card["file"].get("sha256")}
    written = next((Path(name).stem for name in files if name.endswith(".tflite")), None)
    if written is None or artefact.suffix != ".tflite":
        return files
    return {artefact.stem + name.removeprefix(written): wanted for name, wanted in files.items()}


def _contents(artefact: Path, card: dict[str, Any]) -> Iterator[CardRemark]:
    """Class names, preprocessing and settings: what they say is compared, not bytes; a file with other line ends is a note."""
    readers: tuple[tuple[Sidecar, str, type, Callable[[Path], Any], Callable[[Any, Any], str], str], ...] = (
        ("labels.txt", "classes", list, read_labels, _other_names, "class names"),
        ("preprocessing.json", "preprocessing", object, Preprocessing.read, _other_contract, "fields"),
        ("config.yaml", "config", dict, load_config, _other_settings, "settings"))
    for kind, key, needed, read, difference, same in readers:
        file, wanted = sidecar(artefact, kind), card.get(key)
        if not file.is_file() or wanted is None or not isinstance(wanted, needed):
            continue
        try:
            text = difference(wanted, read(file))
        except InputError as error:
            text = f"cannot be used: {error}"
        if text:
            yield _broken(file, text)
        elif _files(artefact, card).get(file.name) not in (None, sha256(file)):
            yield _note(file, f"has the {same} of the card and other bytes (blanks or line ends): harmless")


def _other_names(classes: list[Any], names: tuple[str, ...]) -> str:
    if list(names) == classes:
        return ""
    if len(names) != len(classes):
        found = f"{len(classes)} class names, the file has {len(names)}"
    else:
        at = next(index for index, pair in enumerate(zip(classes, names, strict=True)) if pair[0] != pair[1])
        order = " (the same names in another order)" if sorted(names) == sorted(map(str, classes)) else ""
        found = f"output {at} is {classes[at]!r}, the file says {names[at]!r}{order}"
    return (f"the card says {found}: answers would be given the wrong names. Restore the file, or write the names in the card's "
            "order")


def _other_contract(wanted: Any, contract: Preprocessing) -> str:
    found = contract.fingerprint()
    return "" if found == wanted else (f"the card says the fingerprint {_short(wanted)}, the file has {_short(found)}: pictures "
                                       "would be prepared in another way than in training. Restore the file")


def _other_settings(wanted: dict[str, Any], config: Config) -> str:
    """Only keys that both have: a newer version may know more."""
    changed = [f"{section}.{key} is {_mapping(wanted.get(section))[key]}, the file says {value}"
               for section, values in plain(config).items() for key, value in values.items()
               if key in _mapping(wanted.get(section)) and wanted[section][key] != value]
    return f"the card says {'; '.join(changed)}: the run was made with the card's settings. Restore the file" if changed else ""


def _parents(artefact: Path, card: dict[str, Any]) -> Iterator[CardRemark]:
    for key in PARENTS:
        entry = card.get(key)
        if entry is None:
            continue
        if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str):
            yield _broken(sidecar(artefact, "card.json"), "the entry about the parent is damaged; make the artefact again")
            continue
        found = look_for(entry, folder_of(artefact))
        if found.file is not None:
            continue
        made_from = f"the card says it was made from {entry['file']} with SHA-256 {_short(entry.get('sha256'))}"
        if found.replaced:
            yield _broken(artefact, f"{made_from}; {found.tried}: the parent was changed or made again afterwards, and the two "
                          "do not belong together. Make this artefact again from it, or restore it")
        elif found.tried:
            yield _note(artefact, f"{made_from}; {found.tried}: the parent was moved alone or deleted, so it is not checked. "
                        "Move both together, or put it back")
        else:
            yield _note(artefact, f"{made_from} but not where that was, so the parent is not checked; an older version wrote the "
                        "card")


def _versions(file: Path, card: dict[str, Any]) -> Iterator[CardRemark]:
    changes = _version_changes(card)
    if changes:
        yield _note(file, f"written with other versions than are installed now: {changes}; numbers may differ in the last "
                    "digits")


def _version_changes(card: Mapping[str, Any]) -> str:
    now = library_versions()
    return ", ".join(f"{name} {version} (now {now.get(name, 'not installed')})"
                     for name, version in _mapping(card.get("versions")).items() if now.get(name) != version)


def _broken(subject: str | Path, text: str) -> CardRemark:
    return CardRemark("broken", str(subject), text)


def _note(subject: str | Path, text: str) -> CardRemark:
    return CardRemark("note", str(subject), text)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _short(digest: Any) -> str:
    return f"{str(digest)[:12]}..."
