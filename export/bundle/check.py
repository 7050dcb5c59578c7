"""Whether a bundle is still what was made: every byte, the labels, the metadata, and the goldens replayed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.data import Preprocessing, read_labels
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.export.bundle import contract as names
from mnv3_tf.export.bundle.contract import read_app_contract
from mnv3_tf.export.bundle.metadata import associated_files, read_metadata
from mnv3_tf.files import read_bytes, read_json, sha256
from mnv3_tf.tflite.runtime import LiteRTModel, pixel_tensor

_REQUIRED = (names.MODEL, names.LABELS, names.CONTRACT, names.CARD, names.GOLDENS)


def check_bundle(folder: str | Path) -> tuple[str, ...]:
    """Checks a bundle.

    Returns:
        A line for each thing that is wrong, the file's name first; nothing where all is well.

    Raises:
        InputError: the folder is not a bundle.
    """
    folder = Path(folder)
    if not (folder / names.SUMS).is_file():
        raise InputError(f"{folder}: is not a bundle (it has no {names.SUMS}). Make one with mnv3 bundle FILE.tflite --out DIR.")
    problems = list(_sums(folder))
    if problems:  # what follows would only repeat it in other words
        return tuple(problems)
    try:
        return tuple(_content(folder))
    except KitError as error:
        return (str(error),)


def _sums(folder: Path) -> Iterator[str]:
    listed: dict[str, str] = {}
    text = read_bytes(folder / names.SUMS).decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            yield f"{names.SUMS}: line {number} is damaged"
            return
        listed[name] = digest
    for name in _REQUIRED:
        if name not in listed:
            yield f"{names.SUMS}: {name} is not listed"
    for name, digest in listed.items():
        path = folder / name
        if not path.is_file():
            yield f"{name}: is missing"
        elif sha256(path) != digest:
            yield f"{name}: was changed (its SHA-256 is not the one in {names.SUMS})"
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in listed and name != names.SUMS:
            yield f"{name}: does not belong to the bundle"


def _content(folder: Path) -> Iterator[str]:
    labels = read_labels(folder / names.LABELS)
    contract, facts = read_app_contract(folder / names.CONTRACT)
    content = read_bytes(folder / names.MODEL)
    model = LiteRTModel(folder / names.MODEL)
    outputs = int(np.prod(model.output_shape))
    if outputs != len(labels):
        yield f"{names.LABELS}: has {len(labels)} lines, and the model {outputs} outputs"
    yield from _model_facts(model, contract, facts)
    metadata = read_metadata(content)
    if metadata is None:
        yield f"{names.MODEL}: carries no metadata"
    else:
        inside = associated_files(content).get(metadata["labels_file"])
        if inside != read_bytes(folder / names.LABELS):
            yield f"{names.MODEL}: the labels in its metadata are not those of {names.LABELS}"
    yield from _goldens(folder, contract, model)


def _model_facts(model: LiteRTModel, contract: Preprocessing, facts: dict[str, Any]) -> Iterator[str]:
    found = {"input": (model.input_dtype, list(model.input_shape), *model.input_quantization),
             "output": (model.output_dtype, list(model.output_shape), *model.output_quantization)}
    for side, values in found.items():
        said = facts.get(side) or {}
        for key, value in zip(("dtype", "shape", "scale", "zero_point"), values, strict=True):
            if said.get(key) != value:
                yield f"{names.CONTRACT}: says {key} {said.get(key)!r} of the {side}, and the model has {value!r}"
    if model.input_shape[1:3] != (contract.height, contract.width):
        yield f"{names.CONTRACT}: makes {contract.height} x {contract.width} pixels, and the model takes {model.input_shape[1:3]}"


def _goldens(folder: Path, contract: Preprocessing, model: LiteRTModel) -> Iterator[str]:
    entries = (read_json(folder / names.GOLDENS) or {}).get("goldens") or []
    if not entries:
        yield f"{names.GOLDENS}: holds no golden"
    for entry in entries:
        tensor = pixel_tensor(contract.load(folder / entry["picture"]), model.input_dtype)
        if tensor.tobytes() != read_bytes(folder / entry["input"]):
            yield f"{entry['input']}: {entry['picture']} gives another input tensor by this contract on this machine"
        stored = np.frombuffer(read_bytes(folder / entry["input"]), model.input_dtype).reshape(model.input_shape)
        if model.run_raw(stored).tobytes() != read_bytes(folder / entry["output"]):
            yield f"{entry['output']}: {entry['input']} gives other output bytes on this machine's runtime"
