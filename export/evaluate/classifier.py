"""Any model that the kit makes, behind one interface: pixels in, logits out, with its contract and labels."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mnv3_tf.artefacts.open import open_artefact
from mnv3_tf.data.batches import EVALUATION_BATCH
from mnv3_tf.data.decode import PictureSource
from mnv3_tf.errors import InputError
from mnv3_tf.metrics import softmax


@dataclass(frozen=True)
class Answer:
    """The best classes of one picture: (label, index, probability), best first."""

    file: str
    predictions: tuple[tuple[str, int, float], ...]

    @property
    def label(self) -> str:
        """The best class."""
        return self.predictions[0][0]

    @property
    def score(self) -> float:
        """Its probability, in 0..1."""
        return self.predictions[0][2]

    def to_dict(self) -> dict[str, Any]:
        """As `mnv3 predict --json` prints it."""
        return {"file": self.file, "predictions": [{"label": label, "index": index, "score": probability}
                                                   for label, index, probability in self.predictions]}


class Classifier:
    """A model ready to answer: a run folder (float or quantized), a `.keras` or a `.tflite` file.

    Args:
        path: the model. A `.keras` file needs preprocessing.json and labels.txt in its folder; an imported one (with a card of
            its own, ``m.card.json``) and a `.tflite` file need theirs (``m.preprocessing.json``, ``m.labels.txt``) beside them,
            as `mnv3 import-weights` and `mnv3 convert` write them.
        threads: of the TFLite runtime.

    Attributes:
        path: what the user named.
        kind: "keras", "quantized" or "tflite".
        contract: how pictures become its input.
        labels: class names in the order of the logits.
        forward: pixels uint8 (n, height, width, 3) -> logits float32 (n, classes); n is at most :data:`EVALUATION_BATCH`.

    Raises:
        InputError: not found, of no known kind, or without its contract or labels.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1) -> None:
        artefact = open_artefact(os.fspath(path))
        self.path, self.kind = artefact.path, artefact.form
        self.contract, self.labels = artefact.contract_and_labels()
        self.forward, _ = artefact.answers(threads)
        last = getattr(artefact.model.layers[-1], "activation", None) if artefact.form == "keras" else None
        name = getattr(last, "__name__", "linear")
        if name != "linear":
            raise InputError(f"{self.path}: ends in {name}; a model that ends in logits is needed (classifier_activation=None).")
        probe = np.zeros((1, self.contract.height, self.contract.width, 3), np.uint8)
        try:
            classes = self.forward(probe).shape[1]
        except ValueError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{self.path}: does not take the {self.contract.height}x{self.contract.width} pictures of its "
                             f"preprocessing contract ({reason}).") from error
        if classes != len(self.labels):
            raise InputError(f"{self.path}: has {classes} outputs, but its labels.txt names {len(self.labels)} classes.")

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 (n, classes) of any number of pictures."""
        parts = [self.forward(pixels[i:i + EVALUATION_BATCH]) for i in range(0, len(pixels), EVALUATION_BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.labels)), np.float32)

    def predict(self, picture: PictureSource | Image.Image, *, top_k: int = 5) -> Answer:
        """The best classes of one picture: a file, its bytes, or an open picture.

        Raises:
            PictureError: it cannot be read.
        """
        opened = isinstance(picture, Image.Image)
        pixels = self.contract.prepare(picture) if isinstance(picture, Image.Image) else self.contract.load(picture)
        return self.answer("" if opened or isinstance(picture, bytes) else str(picture), self.logits(pixels[None])[0], top_k)

    def answer(self, file: str, logits: np.ndarray, top_k: int) -> Answer:
        """The best `top_k` classes (all, where there are fewer) of the logits (classes,) of a picture."""
        probabilities = softmax(logits.astype(np.float64))
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return Answer(file, tuple((self.labels[i], int(i), float(probabilities[i])) for i in best))
