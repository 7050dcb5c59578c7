"""The MobileNetV3 inside of a `.tflite` file or a TensorFlow.js graph model as a Keras model, compared with the file itself."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_tf.config import ModelConfig
from mnv3_tf.data.synthetic import synthetic_pictures
from mnv3_tf.errors import CheckFailed, InputError
from mnv3_tf.files import sha256
from mnv3_tf.metrics import softmax
from mnv3_tf.network.plan import Part
from mnv3_tf.network.spec import check_alpha, find_spec, read_block_table, with_normalization
from mnv3_tf.weights.graphs import ForeignNetwork, read_convolutions
from mnv3_tf.weights.graphs.assign import to_keras
from mnv3_tf.weights.graphs.match import Candidate, require_match
from mnv3_tf.weights.graphs.recovered import rgb
from mnv3_tf.weights.graphs.tfjs import weight_files
from mnv3_tf.weights.imported import Imported, ImportedTensor, check_labels

if TYPE_CHECKING:
    from mnv3_tf.backend import keras

_PICTURES = 4
# What the largest difference may be, as a share of the range of the file's values: rounding of float32; of weights kept in
# 16 bits; of weights and activations in 8 bits, for which it is the mean difference that counts.
_LIMITS = {"float32": 1e-3, "float16": 1e-2, "8 bits": 0.1}


@dataclass(frozen=True)
class Agreement:
    """Answers of the imported model and of the file that it came from.

    Attributes:
        where: the layer whose values were compared.
        pictures: random ones, so many.
        precision: of the file: "float32", "float16" or "8 bits".
        largest, mean: difference, as a share of the range of the file's values.
        limit: of the mean for 8 bits, else of the largest.
    """

    where: str
    pictures: int
    precision: str
    largest: float
    mean: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within its limit."""
        return (self.mean if self.precision == "8 bits" else self.largest) <= self.limit

    def __str__(self) -> str:
        kind = "mean" if self.precision == "8 bits" else "largest"
        return (f"against the file itself ({self.precision}, {self.pictures} random pictures, {self.where}): largest difference "
                f"{self.largest:.1e} of the range, mean {self.mean:.1e}; allowed {kind} {self.limit:g}")


def import_foreign(source: str | Path, origin: str, *, name: str | None = None, alpha: float | None = None,
                   dialect: str | None = None, input_size: int | Sequence[int] | None = None, classes: int | None = None,
                   labels: Sequence[str] | None = None, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
                   table: str | Path | None = None, dropout: float = 0.2) -> Imported:
    """Builds the network whose convolutions a file has, and puts them in; every BatchNorm becomes the addition of a bias.

    Args:
        source: a `.tflite` file; or a graph model's `.json` file, or the folder of a `model.json`.
        origin: "tflite" or "tfjs".
        name, alpha, dialect: of the network; None: as the convolutions say.
        input_size: one side in pixels, or (height, width); None: the file's own.
        classes, labels: as for :func:`mnv3_tf.weights.importing.import_weights`.
        mean, std: how pixels become the input of a float file that does not say so itself, as shares of 255.
        table: YAML of a network of your own.
        dropout: before the classifier, in training.

    Returns:
        The model; ``facts["comparison"]`` holds the :class:`Agreement` with a `.tflite` file as a dict, and
        ``facts["weight_files"]`` the SHA-256 of each file that holds a graph model's weights, by its name.

    Raises:
        InputError: the file is damaged or holds no such network.
        CheckFailed: the imported model answers differently from the `.tflite` file.
    """
    if alpha is not None:
        check_alpha(alpha)
    network = read_convolutions(source)
    if network.format != origin:
        raise InputError(f"{source}: is a {network.format} file. Give --from {network.format}.")
    if origin == "tflite" and not (network.height and network.width):
        raise InputError(f"{source}: leaves height and width of its input open, so it cannot be run and compared with the "
                         "imported model. Convert it again with a fixed size, such as 224x224; its batch size may stay open.")
    network = with_pixels(network, mean, std)
    specs = None if table is None else [read_block_table(table)]
    candidate = require_match(network, name=name or None, alpha=alpha, dialect=dialect, specs=specs)
    labels = check_labels(Path(source), candidate.classes, classes, labels)
    candidate = _with_the_files_normalization(network, candidate)
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size) if input_size else None
    assigned = to_keras(network, candidate, input_size=size, dropout=dropout)  # type: ignore[arg-type]
    notes = [f"the convolutions are those of {candidate.name} at alpha {candidate.alpha:g}, dialect {candidate.dialect}",
             *(note.rstrip(".") for note in assigned.notes)]
    comparison = None
    if origin == "tflite":
        same_size = size is None or size == (network.height, network.width)
        comparison = compare(network, assigned.model if same_size else to_keras(network, candidate).model, candidate)
        notes.append(str(comparison))
        if not comparison.passed:
            raise CheckFailed(f"{source}: the imported model answers differently from the file: {comparison}. Nothing was "
                              "written.")
    else:
        notes.append("a graph model is not run here, so its answers were not compared with the imported model's")
    named: dict[str, Any] = {"name": candidate.name} if table is None else {"block_table": str(Path(table).resolve())}
    settings = ModelConfig(alpha=candidate.alpha, dialect=candidate.dialect, dropout=dropout, **named)  # type: ignore[arg-type]
    path = Path(source)
    facts: dict[str, Any] = {"comparison": dataclasses.asdict(comparison) if comparison else None}
    if origin == "tfjs":
        facts["weight_files"] = {name: sha256(file) for name, file in weight_files(source).items()}
    details = candidate.spec.dialect
    return Imported(
        model=assigned.model, source=path / "model.json" if path.is_dir() else path, origin=origin, settings=settings,
        include_top=candidate.head == "classifier", classes=candidate.classes, labels=labels, mean=details.mean,
        std=details.std, preprocessing=None, tensors=_rows(network, assigned.parts), left_out=network.ignored,
        notes=tuple(notes), facts=facts)


def compare(network: ForeignNetwork, model: "keras.Model", candidate: Candidate) -> Agreement:
    """Runs the `.tflite` file and the imported model on random pictures of the file's size.

    The logits are compared (or their softmax, where that is what the file gives); without a classifier, the last block's
    projection.

    Raises:
        InputError: the file cannot be run, or does not keep that tensor.
    """
    from mnv3_tf.tflite.runtime import LiteRTModel

    runner = LiteRTModel(network.path, delegate="none", keep_tensors=True, fix_batch=True)
    _, height, width, _ = runner.input_shape
    pictures = synthetic_pictures(_PICTURES, max(height, width))[:, :height, :width].astype(np.float32)
    pixels = np.asarray(pictures, np.float64)
    assert network.pixel_scale is not None and network.pixel_offset is not None
    seen = pixels * network.pixel_scale + network.pixel_offset
    real = ((seen - network.input_offset) / network.input_scale).astype(np.float32)
    where, ours = _our_values(network, model, candidate, pictures)
    theirs = np.stack([_their_values(runner, network, candidate, picture) for picture in real])
    if candidate.head == "classifier" and np.allclose(theirs.sum(-1), 1, atol=0.05) and theirs.min() >= 0:
        where, ours = "softmax", softmax(ours)
    extent = float(theirs.max() - theirs.min()) or 1.0
    difference = np.abs(ours.reshape(theirs.shape) - theirs) / extent
    precision = _precision(network, runner.input_dtype)
    return Agreement(where, _PICTURES, precision, float(difference.max()), float(difference.mean()), _LIMITS[precision])


def _our_values(network: ForeignNetwork, model: "keras.Model", candidate: Candidate,
                pictures: np.ndarray) -> tuple[str, np.ndarray]:
    from mnv3_tf.backend import keras

    layer = "logits" if candidate.head == "classifier" else f"block_{network.block_count:02d}_project_bn"
    probe = keras.Model(model.input, model.get_layer(layer).output)
    return layer, np.asarray(probe(pictures, training=False))  # for four pictures, tracing would take longer


def _their_values(runner: Any, network: ForeignNetwork, candidate: Candidate, real: np.ndarray) -> np.ndarray:
    if candidate.head == "classifier":
        return np.ravel(runner.predict_real(real[None]))
    from mnv3_tf.tflite.file import read_tflite

    runner.predict_real(real[None])
    last = next(conv for conv in reversed(network.convolutions) if conv.role == "project")
    index = next(tensor.index for tensor in read_tflite(network.path).tensors if tensor.name == last.name)
    return np.asarray(runner.real_values(index))


def _precision(network: ForeignNetwork, input_dtype: str) -> str:
    if any(conv.kernel_step is not None for conv in network.convolutions) or input_dtype in ("uint8", "int8"):
        return "8 bits"
    halves = all(np.array_equal(conv.kernel, conv.kernel.astype(np.float16)) for conv in network.convolutions[1:3])
    return "float16" if halves else "float32"


def with_pixels(network: ForeignNetwork, mean: Sequence[float] | None, std: Sequence[float] | None) -> ForeignNetwork:
    """The network with what its stem sees of a pixel, from the file or, where that is open, from the user."""
    if network.pixel_scale is not None:
        if mean is not None or std is not None:
            raise InputError(f"{network.path}: says itself how pixels become its input. Leave --mean and --std out.")
        return network
    if mean is None or std is None:
        raise InputError(f"{network.path}: does not say what its float input holds, and nothing is assumed. Give --mean and "
                         "--std: 0.5 0.5 0.5 and 0.5 0.5 0.5 for -1..1; 0 0 0 and 1 1 1 for 0..1; 0.485 0.456 0.406 and "
                         "0.229 0.224 0.225 for ImageNet's.")
    details = with_normalization(find_spec("small"), mean, std).dialect
    scale, offset = (np.asarray(values) for values in details.rescaling())
    own_scale, own_offset = np.asarray(network.input_scale), np.asarray(network.input_offset)
    return dataclasses.replace(network, pixel_scale=rgb(own_scale * scale), pixel_offset=rgb(own_scale * offset + own_offset))


def _with_the_files_normalization(network: ForeignNetwork, candidate: Candidate) -> Candidate:
    """Where the stem sees pixels differently from the dialect, the Rescaling layer does what the file does."""
    if candidate.rescaling_fits:
        return candidate
    scale, offset = np.asarray(network.pixel_scale), np.asarray(network.pixel_offset)
    spec = with_normalization(candidate.spec, tuple(-offset / scale / 255), tuple(1 / (255 * scale)))
    return dataclasses.replace(candidate, spec=spec)


def _rows(network: ForeignNetwork, parts: Sequence[Part]) -> tuple[ImportedTensor, ...]:
    rows = []
    for part, conv in zip(parts, network.convolutions, strict=False):
        bias, how = ("_bn/beta", "BatchNorm that only adds the bias") if part.batchnorm else ("/bias", "")
        rows.append(ImportedTensor(conv.name, conv.kernel.shape, f"{part.layer}/kernel", conv.kernel.shape, ""))
        rows.append(ImportedTensor(conv.name, conv.bias.shape, f"{part.layer}{bias}", conv.bias.shape, how))
    return tuple(rows)
