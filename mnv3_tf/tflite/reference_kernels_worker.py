"""Runs pictures through a `.tflite` file on the reference kernels, in a process of its own: they may end the process.

``python -m mnv3_tf.tflite.reference_kernels_worker FILE.tflite PIXELS.npy LOGITS.npy``
"""

import sys
from pathlib import Path

import numpy as np

from mnv3_tf.errors import KitError
from mnv3_tf.tflite.runtime import LiteRTModel


def main(file: str, pixels: str, logits: str) -> None:
    """Reads pixels uint8 (n, h, w, 3), writes logits float32 (n, classes)."""
    try:
        model = LiteRTModel(Path(file), reference_kernels=True)
        np.save(logits, model.predict(np.load(pixels)))
    except KitError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
