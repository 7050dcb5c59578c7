"""A teacher of any kind for float training: what `mnv3_tf.training.distill` opens, a quantized run, or a `.tflite` file."""

from pathlib import Path

from mnv3_tf.errors import InputError
from mnv3_tf.machine import usable_cores
from mnv3_tf.training.distill import Teacher
from mnv3_tf.training.distill import open_teacher as open_keras_teacher


def open_teacher(path: str | Path) -> Teacher:
    """Opens a run folder (float or quantized), a `.keras` or a `.tflite` file as teacher.

    A `.tflite` file is given pixels by this kit's rule; its labels are read from ``X.labels.txt`` where that lies beside it.

    Raises:
        InputError: it is missing or no picture classifier.
    """
    path = Path(path)
    if path.suffix == ".tflite" and path.is_file():
        return _tflite_teacher(path)
    if path.is_dir() and (path / "quantized.npz").exists():
        from mnv3_tf.export.evaluate.classifier import open_classifier

        classifier = open_classifier(path)
        return Teacher(path, path / "quantized.npz", classifier.forward, classifier.contract.height, classifier.contract.width,
                       classifier.labels)
    return open_keras_teacher(path)


def _tflite_teacher(path: Path) -> Teacher:
    from mnv3_tf.data import read_labels
    from mnv3_tf.export.convert.convert import sidecar
    from mnv3_tf.tflite.runtime import LiteRTModel

    model = LiteRTModel(path, threads=min(4, usable_cores()))
    shape = model.input_shape
    if len(shape) != 4 or shape[3] != 3:
        raise InputError(f"train.teacher is {path}: its input is {shape}; one picture (1, height, width, 3) is needed.")
    labels = sidecar(path, "labels.txt")
    return Teacher(path, path, model.predict, shape[1], shape[2], read_labels(labels) if labels.exists() else None,
                   assumed=not sidecar(path, "preprocessing.json").exists())
