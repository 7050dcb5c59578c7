"""The reference kernels' answers, computed beside everything else."""

import contextlib

import numpy as np

from mnv3_tf.child import Child, ChildFailed
from mnv3_tf.errors import KitError
from mnv3_tf.machine import usable_cores
from mnv3_tf.tflite.reference_logits import reference_logits

_LEAST_PICTURES = 32


class ReferenceKernels(contextlib.ExitStack):
    """Child processes that run a file on the plain kernels that define TFLite's results, started at once.

    Args:
        content: the bytes of the `.tflite` file.
        pixels: uint8 (n, height, width, 3).
        name: what errors call the file.
    """

    def __init__(self, content: bytes, pixels: np.ndarray, name: str):
        super().__init__()
        self._name = name
        parts = max(1, min(usable_cores(), len(pixels) // _LEAST_PICTURES, 8))
        self._children = [self.enter_context(Child(reference_logits, content, part)) for part in np.array_split(pixels, parts)]

    def logits(self) -> np.ndarray:
        """Waits, and gives logits float32 (n, classes).

        Raises:
            KitError: a child failed or was ended by the runtime's own checks.
        """
        try:
            return np.concatenate([child.answer() for child in self._children])
        except ChildFailed as error:
            raise KitError(f"{self._name}: the reference kernels ended their process ({error.how}): "
                           f"{error.said or 'no message'}") from error
