"""Pictures in: decoding, the preprocessing contract, datasets in the usual layouts, and the scan before training.

Nothing here imports TensorFlow or Keras; each name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnv3_tf.data.contract import Preprocessing
    from mnv3_tf.data.datasets import open_dataset
    from mnv3_tf.data.decode import PictureError, read_picture
    from mnv3_tf.data.labels import read_labels, write_labels
    from mnv3_tf.data.samples import PictureDataset, Sample, clamp_top_k, evaluation_split
    from mnv3_tf.data.scan import ScanReport, fingerprint_samples, scan_dataset

_HOME = {
    "Preprocessing": "contract", "open_dataset": "datasets",
    "PictureError": "decode", "read_picture": "decode",
    "read_labels": "labels", "write_labels": "labels",
    "PictureDataset": "samples", "Sample": "samples", "clamp_top_k": "samples", "evaluation_split": "samples",
    "ScanReport": "scan", "fingerprint_samples": "scan", "scan_dataset": "scan",
}

__all__ = ["PictureDataset", "PictureError", "Preprocessing", "Sample", "ScanReport", "clamp_top_k", "evaluation_split",
           "fingerprint_samples", "open_dataset", "read_labels", "read_picture", "scan_dataset", "write_labels"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
