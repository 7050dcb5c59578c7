"""A model of any kind, opened with what lies beside it: class names, preprocessing contract, card and configuration."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mnv3_tf.artefacts.card import RUN_WEIGHTS, Sidecar, read_card, sidecar, stands_alone
from mnv3_tf.artefacts.run_folder import RunFolder, open_run
from mnv3_tf.config import Config, load_config
from mnv3_tf.data import Preprocessing, read_labels
from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats.foreign import describe

if TYPE_CHECKING:
    import numpy as np

    from mnv3_tf.backend import keras
    from mnv3_tf.quantization.graph import FoldedGraph

Kind = Literal["float run", "quantized run", ".keras file", ".tflite file"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Artefact:
    """A model; what belongs to it is read when it is asked for, and is None where it is not there.

    Attributes:
        path: as it was given.
        kind: what it is.
        weights: the file that holds them.
    """

    path: Path
    kind: Kind
    weights: Path

    @property
    def form(self) -> Literal["keras", "quantized", "tflite"]:
        """How the network is stored."""
        return "tflite" if self.kind == ".tflite file" else "quantized" if self.kind == "quantized run" else "keras"

    @property
    def run(self) -> RunFolder:
        """The folder that the weights lie in."""
        return RunFolder(self.weights.parent)

    @cached_property
    def card(self) -> dict[str, Any]:
        """Its card, empty where there is none.

        Raises:
            InputError: it cannot be read.
        """
        return read_card(self.weights) or {}

    @cached_property
    def contract(self) -> Preprocessing | None:
        """The preprocessing contract beside it."""
        return _read(sidecar(self.weights, "preprocessing.json"), Preprocessing.read)

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """The class names beside it, in the order of its outputs."""
        return _read(sidecar(self.weights, "labels.txt"), read_labels)

    @cached_property
    def config(self) -> Config | None:
        """The configuration of the run that it lies in."""
        return None if stands_alone(self.weights) else _read(self.run.path / "config.yaml", load_config)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names that it is known to have: those of its card, or of its run folder."""
        names = self.card.get("classes")
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(names)
        return self.labels if self.weights.name in RUN_WEIGHTS or stands_alone(self.weights) else None

    @cached_property
    def model(self) -> "keras.Model":
        """The Keras model of a float run or `.keras` file, loaded once."""
        from mnv3_tf.network.keras_io import load_keras

        return load_keras(self.weights)

    @cached_property
    def folded(self) -> "tuple[FoldedGraph, dict[str, tuple[float, float]]]":
        """The folded network, and the activation ranges; a float network has none."""
        from mnv3_tf.quantization.graph import load_graph

        if self.form == "quantized":
            return load_graph(self.weights)
        from mnv3_tf.quantization.fold import trace

        return trace(self.model), {}

    def answers(self, threads: int = 1) -> "tuple[Callable[[np.ndarray], np.ndarray], tuple[Any, ...]]":
        """What scores pictures, and the shape of its input: empty unless the network has one input and one output.

        Args:
            threads: of the TFLite runtime.

        Returns:
            A function from pixels uint8 (n, height, width, 3) to scores float32 (n, classes), n at most
            :data:`mnv3_tf.data.batches.EVALUATION_BATCH`; and (batch, height, width, 3).
        """
        if self.form == "tflite":
            from mnv3_tf.tflite.runtime import LiteRTModel

            file = LiteRTModel(self.weights, threads=threads)
            return file.predict, file.input_shape
        if self.form == "quantized":
            from mnv3_tf.quantization.integer_network import QuantizedNetwork

            graph = self.folded[0]
            return QuantizedNetwork.of(*self.folded).logits, (1, graph.height, graph.width, 3)
        from mnv3_tf.network.keras_io import batch_logits

        model = self.model
        single = len(model.inputs) == len(model.outputs) == 1
        return lambda pixels: batch_logits(model, pixels), tuple(model.inputs[0].shape) if single else ()

    def contract_and_labels(self) -> tuple[Preprocessing, tuple[str, ...]]:
        """The preprocessing contract and the class names.

        Raises:
            InputError: one of them is missing; the message says where it was expected.
        """
        if self.contract is None:
            raise self._missing("preprocessing.json", "preprocessing contract")
        if self.labels is None:
            raise self._missing("labels.txt", "class names")
        return self.contract, self.labels

    def _missing(self, name: Sidecar, what: str) -> InputError:
        return InputError(f"{self.path}: its {what} is missing; {sidecar(self.weights, name)} was expected. It is written beside "
                          "the model by `mnv3 train`, `mnv3 convert` or `mnv3 import-weights`, and moves with it.")


def open_artefact(path: str | Path) -> Artefact:
    """A run folder (float or quantized), the weights in one, a `.keras` or a `.tflite` file.

    Raises:
        InputError: it is missing, or of another kind.
    """
    path = Path(path)
    what = describe(path)
    if what and not what.startswith(("a run folder", "a folder;")) and path.suffix != ".tflite" and path.name != "quantized.npz":
        raise InputError(f"{path}: is {what}.")
    if path.is_dir():
        run = open_run(path)
        return Artefact(path, "quantized run", run.quantized) if run.is_quantized else Artefact(path, "float run", run.model)
    if not path.exists():
        raise InputError(f"{path}: there is no such {'file' if path.suffix else 'run folder or file'}.")
    kinds: dict[str, Kind] = {".keras": ".keras file", ".tflite": ".tflite file"}
    kind = "quantized run" if path.name == "quantized.npz" else kinds.get(path.suffix)
    if kind is None:
        raise InputError(f"{path}: is not a run folder, .keras or .tflite file. Give one of these; `mnv3 import-weights` makes "
                         "a .keras file of other frameworks' weights.")
    return Artefact(path, kind, path)


def _read(path: Path, reader: Callable[[Path], _T]) -> _T | None:
    return reader(path) if path.exists() else None
