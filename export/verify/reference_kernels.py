"""The reference kernels' answers, computed beside everything else."""

import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from mnv3_tf.errors import KitError
from mnv3_tf.machine import usable_cores

_LEAST_PICTURES = 32


class ReferenceKernels:
    """Child processes that run a file on the plain kernels that define TFLite's results, started at once.

    Args:
        content: the bytes of the `.tflite` file.
        pixels: uint8 (n, height, width, 3).
        name: what errors call the file.
    """

    def __init__(self, content: bytes, pixels: np.ndarray, name: str):
        self._name = name
        self._folder = tempfile.TemporaryDirectory(prefix="mnv3-verify-")
        folder = Path(self._folder.name)
        (folder / "model.tflite").write_bytes(content)
        parts = max(1, min(usable_cores(), len(pixels) // _LEAST_PICTURES, 8))
        self._outputs, self._children = [], []
        for number, part in enumerate(np.array_split(pixels, parts)):
            given, answer = folder / f"pixels{number}.npy", folder / f"logits{number}.npy"
            np.save(given, part)
            self._outputs.append(answer)
            self._children.append(subprocess.Popen(
                [sys.executable, "-m", "mnv3_tf.tflite.reference_kernels_worker", str(folder / "model.tflite"), str(given),
                 str(answer)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))

    def __enter__(self) -> "ReferenceKernels":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.communicate()
        self._folder.cleanup()

    def logits(self) -> np.ndarray:
        """Waits, and gives logits float32 (n, classes).

        Raises:
            KitError: a child failed or was ended by the runtime's own checks.
        """
        for child in self._children:
            _, errors = child.communicate()
            if child.returncode:
                last = (errors or "").strip().splitlines()[-1:] or ["no message"]
                how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
                raise KitError(f"{self._name}: the reference kernels ended their process ({how}): {last[0]}")
        return np.concatenate([np.load(path) for path in self._outputs])
