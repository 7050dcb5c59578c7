"""`model_card.md`: what is known of a model, for people. Only what cards and files say; nothing is made up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv3_tf.artefacts.card import find_float_run, find_parent, read_card
from mnv3_tf.errors import InputError


def model_card(file: Path, contract: Mapping[str, Any], labels: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The card's text.

    Args:
        file: the `.tflite` file that the bundle was made from.
        contract: the bundle's preprocessing.json.
        labels: class names.
        facts: name, description, author, license, version, size_bytes, partitions, sha256.
    """
    card = read_card(file) or {}
    rule, given, made = contract["preprocessing"], contract["input"], contract["output"]
    stored = f"model.tflite, {facts['size_bytes'] / 1e6:.2f} MB, SHA-256 {facts['sha256']}"
    lines = [f"# {facts['name']}", "", facts["description"], "",
             "| | |", "|---|---|",
             *_row("version", facts["version"]), *_row("author", facts["author"]), *_row("licence", facts["license"]),
             *_row("classes", len(labels)), *_row("file", stored),
             *_row("format", card.get("format")), *_row("XNNPACK partitions", facts["partitions"]), "",
             "## Input and output", "",
             f"An sRGB picture of {rule['width']} x {rule['height']} pixels ({rule['resize']}, {rule['interpolation']}; upright "
             f"by its EXIF orientation). {given['rule']}", "",
             f"{made['classes']} values ({made['dtype']}). {made['rule']} preprocessing.json has it for programs, labels.txt the "
             "names in the order of the outputs.", ""]
    lines += _metrics(file)
    lines += ["## Classes", "", ", ".join(labels), ""]
    lines += _origin(card)
    return "\n".join(lines)


def _row(name: str, value: Any) -> list[str]:
    return [f"| {name} | {value} |"] if value not in (None, "") else []


def _metrics(file: Path) -> list[str]:
    """A table of what the runs scored, where they can be found."""
    rows = []
    try:
        float_run, parent = find_float_run(file), find_parent(file)
    except InputError:
        float_run = parent = None
    for name, run in (("float Keras", float_run), ("quantized Keras", parent if parent != float_run else None)):
        card = (read_card(run) or {}) if run is not None else {}
        for split, scores in (card.get("metrics") or {}).items():
            rows.append(f"| {name} | {split} | {scores['top1']:.4f} | {scores['samples']} |")
    if not rows:
        return []
    return ["## Accuracy", "", "| form | pictures | top-1 | number |", "|---|---|---|---|", *rows, ""]


def _origin(card: Mapping[str, Any]) -> list[str]:
    if not card:
        return []
    versions, parent = card.get("versions") or {}, card.get("parent") or {}
    return ["## Origin", "", f"Written {card.get('written', '?')} by mnv3-tf {versions.get('mnv3-tf', '?')}.",
            *(f"Made from the {entry.get('kind')}'s {entry.get('file')} with SHA-256 {entry.get('sha256')}."
              for entry in (parent, parent.get("parent")) if entry),
            f"Libraries: {', '.join(f'{name} {version}' for name, version in versions.items())}.", ""]
