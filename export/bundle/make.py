"""`mnv3 bundle`: makes the folder whole, or not at all."""

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from mnv3_tf.artefacts.open import open_artefact
from mnv3_tf.data import Preprocessing, Samples, evaluation_split, open_dataset, write_labels
from mnv3_tf.errors import InputError
from mnv3_tf.export.bundle import contract as names
from mnv3_tf.export.bundle.contract import app_contract
from mnv3_tf.export.bundle.goldens import generated_pictures, golden_pictures, write_goldens
from mnv3_tf.export.bundle.metadata import add_metadata
from mnv3_tf.export.bundle.model_card import model_card
from mnv3_tf.export.bundle.preprocessing_effect import Effect, measure_effect
from mnv3_tf.export.bundle.scores import with_scores
from mnv3_tf.files import sha256, write_json, write_text, writing
from mnv3_tf.progress import Progress
from mnv3_tf.tflite.file import read_tflite_bytes
from mnv3_tf.tflite.runtime import LiteRTModel

Client = Literal["contract", "mediapipe"]


@dataclass(frozen=True)
class BundleOptions:
    """What a bundle says of itself, and holds.

    Attributes:
        name, description, author, license, version: for metadata and model card; "" leaves one out (the name is the file's).
        goldens: pictures.
        scores: the model gives float32 probabilities instead of logits.
        client: whose preprocessing the bundle asks for: the contract that the model was trained with, or that of MediaPipe's
            ImageClassifier, which has no other.
    """

    name: str = ""
    description: str = "Image classifier"
    author: str = ""
    license: str = ""
    version: str = ""
    goldens: int = 6
    scores: bool = False
    client: Client = "contract"


@dataclass(frozen=True)
class Bundle:
    """What was made.

    Attributes:
        folder: the bundle.
        size_bytes: of all its files.
        partitions: XNNPACK partitions of its model on this machine.
        effect: what MediaPipe's own preprocessing changes, where pictures were given to tell by.
        notes: what a user should know.
    """

    folder: Path
    size_bytes: int
    partitions: int
    effect: Effect | None
    notes: tuple[str, ...]


def copy_app(bundle: str | Path, out: str | Path) -> Path:
    """Copies the sample app to a new folder, with a bundle in its assets.

    Raises:
        InputError: `out` is taken.
        KitError: it cannot be written.
    """
    from importlib import resources

    out = Path(out)
    if out.exists():
        raise InputError(f"{out}: is there already. Give another folder for the app.")
    with writing(out), resources.as_file(resources.files("mnv3_tf.android_demo_assets")) as source:
        shutil.copytree(source, out, ignore=shutil.ignore_patterns("__init__.py", "__pycache__", "build", ".gradle", "bundle"))
        shutil.copytree(bundle, out / "app" / "src" / "main" / "assets" / "bundle")
    return out


def make_bundle(file: str | Path, out: str | Path, *, data: str | Path | None = None, options: BundleOptions | None = None,
                force: bool = False, progress: Progress) -> Bundle:
    """Makes a bundle.

    Args:
        file: a `.tflite` file with its contract and labels beside it.
        out: the folder to make.
        data: pictures (as training takes them) that goldens are chosen from and that the effect of MediaPipe's preprocessing is
            measured on; None: generated goldens.
        options: what goes into the bundle.
        force: replace a folder that is there.
        progress: told of the work.

    Raises:
        InputError: the file cannot be used, its labels are not its outputs, or `out` is taken.
        KitError: the runtime cannot run the file, or the bundle cannot be written.
    """
    file, out, options = Path(file), Path(out), options or BundleOptions()
    artefact = open_artefact(file)
    if artefact.form != "tflite":
        raise InputError(f"{file}: is not a .tflite file. `mnv3 convert` makes one of a {artefact.kind}.")
    contract, labels = artefact.contract_and_labels()
    read_tflite_bytes(file)
    if options.goldens < 1:
        raise InputError(f"goldens is {options.goldens}; a bundle needs one at least, for the app's own test.")
    if out.exists() and not (force and _is_bundle(out)):
        hint = "Give another folder, or --force." if _is_bundle(out) or not out.is_dir() else \
            "It is not a bundle, so --force does not replace it either; give another folder."
        raise InputError(f"{out}: is there already. {hint}")
    samples = Samples.of(())
    if data is not None:
        dataset = open_dataset(data, class_names=labels, progress=progress)
        samples = dataset.split(evaluation_split(dataset))
    effect = measure_effect(file, samples, progress) if samples else None
    if options.client == "mediapipe":
        contract = replace(contract, resize="stretch", crop_fraction=1.0, interpolation="mediapipe")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:20]}-"))
        try:
            partitions = _fill(folder, file, contract, labels, samples, options)
            folder.chmod(0o755)
            _replace(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Bundle(out, size, partitions, effect, tuple(_notes(out, contract, options, effect)))


def _is_bundle(folder: Path) -> bool:
    return (folder / names.SUMS).is_file() and (folder / names.CONTRACT).is_file()


def _fill(folder: Path, file: Path, contract: Preprocessing, labels: tuple[str, ...], samples: Samples,
          options: BundleOptions) -> int:
    content = read_tflite_bytes(file)
    try:
        content = with_scores(content) if options.scores else content
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    model = LiteRTModel(content)
    _check(file, model, contract, labels)
    options = replace(options, name=options.name or file.stem)
    content = _with_metadata(content, model, options, labels)
    (folder / names.MODEL).write_bytes(content)
    model = LiteRTModel(folder / names.MODEL)
    rule = app_contract(contract, model, len(labels), scores=options.scores)
    write_json(folder / names.CONTRACT, rule)
    write_labels(folder / names.LABELS, labels)
    pictures = golden_pictures(samples, options.goldens) if samples else generated_pictures(options.goldens)
    write_json(folder / names.GOLDENS, {
        "format": names.FORMAT, "runtime": "LiteRT with XNNPACK, 1 thread", "goldens": write_goldens(
            folder / names.GOLDEN_FOLDER, pictures, contract, model, labels, scores=options.scores)})
    facts = {**asdict(options), "size_bytes": len(content), "partitions": model.partitions,
             "sha256": sha256(folder / names.MODEL)}
    write_text(folder / names.CARD, model_card(file, rule, labels, facts))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_text(folder / names.SUMS, "".join(f"{sha256(folder / path)}  {path}\n" for path in files))
    return model.partitions


def _check(file: Path, model: LiteRTModel, contract: Preprocessing, labels: tuple[str, ...]) -> None:
    import numpy as np

    outputs = int(np.prod(model.output_shape))
    if outputs != len(labels):
        raise InputError(f"{file}: has {outputs} outputs, but its labels name {len(labels)} classes. Convert it again, or put "
                         "its own labels beside it.")
    if model.input_shape != (1, contract.height, contract.width, 3):
        raise InputError(f"{file}: takes {model.input_shape}; its contract makes {contract.height} x {contract.width} pixels. "
                         "Put its own preprocessing.json beside it.")
    if not model.takes_pixels:
        raise InputError(f"{file}: its input is not this kit's (pixels as they are), so no app contract can be written for it. "
                         "Convert it with mnv3 convert.")


def _with_metadata(content: bytes, model: LiteRTModel, options: BundleOptions, labels: tuple[str, ...]) -> bytes:
    scale, zero = model.output_quantization
    ends = (0, 255) if model.output_dtype == "uint8" else (-128, 127)
    output_range = (0.0, 1.0) if options.scores or scale == 0 else ((ends[0] - zero) * scale, (ends[1] - zero) * scale)
    # MediaPipe normalizes float32 inputs by these; the kit's files take pixels. It feeds uint8 inputs bytes as they are.
    mean, std = (0.0, 1.0) if model.input_dtype == "float32" else (127.5, 127.5)
    return add_metadata(content, labels, about=asdict(options), mean=mean, std=std, output_range=output_range,
                        output_name="probability" if options.scores else "logit")


def _replace(folder: Path, out: Path) -> None:
    """Puts a finished folder where it belongs; an old one stays until then."""
    if not out.exists():
        os.rename(folder, out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name[:20]}-old-"))
    os.rename(out, old / "old")
    os.rename(folder, out)
    shutil.rmtree(old, ignore_errors=True)


def _notes(out: Path, contract: Preprocessing, options: BundleOptions, effect: Effect | None) -> list[str]:
    notes = []
    if LiteRTModel(out / names.MODEL).input_dtype == "int8":
        notes.append("the model takes int8, which MediaPipe refuses; convert with --io uint8 for it")
    if effect is not None and not effect.same and options.client == "contract":
        notes.append(f"{effect.sentence()} An app that follows preprocessing.json is not affected by it. For MediaPipe's "
                     "ImageClassifier, train with -o data.resize=stretch -o data.interpolation=mediapipe, or make the bundle "
                     "with --client mediapipe, which writes that contract")
    elif effect is not None and not effect.same:
        notes.append(f"the model was trained with another contract. {effect.sentence()}")
    if contract.interpolation != "mediapipe" and effect is None:
        notes.append("MediaPipe's ImageClassifier prepares pictures in its own way and not by this contract; --data PATH "
                     "measures what that changes")
    return [note.rstrip(".") for note in notes]
