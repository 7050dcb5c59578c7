"""Any model that the kit makes, behind one interface: pixels in, logits out, with its contract and labels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv3_tf.artefacts.open import open_artefact
from mnv3_tf.data import Preprocessing
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
    artefact = open_artefact(path)
    contract, labels = artefact.contract_and_labels()
    forward, _ = artefact.answers(threads)
    last = getattr(artefact.model.layers[-1], "activation", None) if artefact.form == "keras" else None
    name = getattr(last, "__name__", "linear")
    if name != "linear":
        raise InputError(f"{path}: ends in {name}; a model that ends in logits is needed (classifier_activation=None).")
    probe = np.zeros((1, contract.height, contract.width, 3), np.uint8)
    try:
        classes = forward(probe).shape[1]
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path}: does not take the {contract.height}x{contract.width} pictures of its preprocessing contract "
                         f"({reason}).") from error
    if classes != len(labels):
        raise InputError(f"{path}: has {classes} outputs, but its labels.txt names {len(labels)} classes.")
    return Classifier(artefact.path, artefact.form, contract, labels, forward)
