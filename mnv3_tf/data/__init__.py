"""Pictures in: decoding, the preprocessing contract, datasets in the usual layouts, and the scan before training.

Nothing here imports TensorFlow or Keras.
"""

from mnv3_tf.data.contract import Preprocessing
from mnv3_tf.data.datasets import open_dataset
from mnv3_tf.data.decode import PictureError, read_picture
from mnv3_tf.data.labels import read_labels, write_labels
from mnv3_tf.data.samples import PictureDataset, Sample, Samples, clamp_top_k, evaluation_split
from mnv3_tf.data.scan import ScanReport, fingerprint_samples, scan_dataset

__all__ = ["PictureDataset", "PictureError", "Preprocessing", "Sample", "Samples", "ScanReport", "clamp_top_k",
           "evaluation_split", "fingerprint_samples", "open_dataset", "read_labels", "read_picture", "scan_dataset",
           "write_labels"]
