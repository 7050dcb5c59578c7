"""Any model that the kit makes, behind one interface: pixels in, logits out, with its contract and labels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv3_tf.data import Preprocessing, read_labels
from mnv3_tf.data.batches import EVALUATION_BATCH
from mnv3_tf.errors import InputError


@dataclass(frozen=True)
class Classifier:
    """A model ready to answer.

    Attributes:
        path: what the user named.
        kind: "keras", "quantized" or "tflite".
        contract: how pictures become its input.
        labels: class names in the order of the logits.
        forward: pixels uint8 (n, height, width, 3) -> logits float32 (n, classes); n is at most :data:`EVALUATION_BATCH`.
    """

    path: Path
    kind: str
    contract: Preprocessing
    labels: tuple[str, ...]
    forward: Callable[[np.ndarray], np.ndarray]

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 (n, classes) of any number of pictures."""
        parts = [self.forward(pixels[i:i + EVALUATION_BATCH]) for i in range(0, len(pixels), EVALUATION_BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), np.float32)


def open_classifier(path: str | Path, *, threads: int = 1) -> Classifier:
    """Opens a run folder (float or quantized), a `.keras` or a `.tflite` file.

    Args:
        path: the model. A `.keras` file needs preprocessing.json and labels.txt in its folder; an imported one (with a card of
            its own, ``m.card.json``) and a `.tflite` file need theirs (``m.preprocessing.json``, ``m.labels.txt``) beside them,
            as `mnv3 import-weights` and `mnv3 convert` write them.
        threads: of the TFLite runtime.

    Raises:
        InputError: not found, of no known kind, or without its contract or labels.
    """
    path = Path(path)
    if path.is_dir():
        from mnv3_tf.artefacts.run_folder import open_run

        run = open_run(path)
        if run.is_quantized:
            return _checked(path, "quantized", run.contract(), run.labels(), _quantized(run.quantized))
        return _checked(path, "keras", run.contract(), run.labels(), _keras(run.model))
    if not path.exists():
        raise InputError(f"{path}: there is no such run folder or file.")
    if path.suffix == ".keras":
        make: Callable[[Path], Callable[[np.ndarray], np.ndarray]] = _keras
    elif path.suffix == ".tflite":
        make = lambda file: _tflite(file, threads)  # noqa: E731
    else:
        raise InputError(f"{path}: is not a model. Give a run folder, a .keras file or a .tflite file.")
    return _checked(path, path.suffix[1:], *contract_and_labels(path), make(path))


def contract_and_labels(path: Path) -> tuple[Preprocessing, tuple[str, ...]]:
    """What lies beside a `.keras` or `.tflite` file: its preprocessing contract and class names.

    Raises:
        InputError: one of them is missing.
    """
    own = f"{path.stem}." if path.suffix == ".tflite" or path.with_name(f"{path.stem}.card.json").exists() else ""
    contract, labels = path.with_name(f"{own}preprocessing.json"), path.with_name(f"{own}labels.txt")
    for file, what in ((contract, "preprocessing contract"), (labels, "class names")):
        if not file.exists():
            raise InputError(f"{path}: its {what} is missing; {file} was expected. It is written beside the model, and "
                             "moves with it.")
    return Preprocessing.read(contract), read_labels(labels)


def _keras(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    from mnv3_tf.network.keras_io import batch_logits, load_keras

    model = load_keras(path)
    last = getattr(getattr(model.layers[-1], "activation", None), "__name__", "linear")
    if last != "linear":
        raise InputError(f"{path}: ends in {last}; a model that ends in logits is needed "
                         "(classifier_activation=None).")
    return lambda pixels: batch_logits(model, pixels)


def _quantized(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    from mnv3_tf.quantization.graph import load_graph
    from mnv3_tf.quantization.integer_network import QuantizedNetwork

    return QuantizedNetwork.of(*load_graph(path)).logits


def _tflite(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    from mnv3_tf.tflite.runtime import LiteRTModel

    return LiteRTModel(path, threads=threads).predict


def _checked(path: Path, kind: str, contract: Preprocessing, labels: tuple[str, ...],
             forward: Callable[[np.ndarray], np.ndarray]) -> Classifier:
    """Refuses a model whose outputs and labels differ in number, or that does not take the contract's size."""
    probe = np.zeros((1, contract.height, contract.width, 3), np.uint8)
    try:
        classes = forward(probe).shape[1]
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: does not take the {contract.height}x{contract.width} pictures of its preprocessing contract "
                         f"({reason}).") from error
    if classes != len(labels):
        raise InputError(f"{path}: has {classes} outputs, but its labels.txt names {len(labels)} classes.")
    return Classifier(path, kind, contract, labels, forward)
