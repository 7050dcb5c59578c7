"""Runs pictures through a `.tflite` file on the reference kernels, for a process of its own: they may end the process."""

import sys

import numpy as np

from mnv3_tf.errors import KitError
from mnv3_tf.tflite.runtime import LiteRTModel


def reference_logits(content: bytes, pixels: np.ndarray) -> np.ndarray:
    """Logits float32 (n, classes) of pixels uint8 (n, h, w, 3)."""
    try:
        return LiteRTModel(content, reference_kernels=True).predict(pixels)
    except KitError as error:
        sys.exit(str(error))
