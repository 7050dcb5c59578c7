"""Reads the MobileNetV3 out of a file that another converter wrote: a `.tflite` file or a TensorFlow.js graph model."""

from pathlib import Path

from mnv3_tf.weights.graphs.blocks import find_network
from mnv3_tf.weights.graphs.recovered import ForeignConvolution, ForeignNetwork
from mnv3_tf.weights.graphs.tfjs import is_tfjs, read_tfjs
from mnv3_tf.weights.graphs.walk import walk


def read_convolutions(path: str | Path) -> ForeignNetwork:
    """The MobileNetV3 of a `.tflite` file or a TensorFlow.js graph model (its `.json` file, or the folder of a `model.json`).

    Returns:
        The longest prefix of the graph that is a MobileNetV3, in true units: float32 kernels and biases between tensors that no
        converter's factor has scaled.

    Raises:
        InputError: the file is damaged or of another kind, or holds no such network; the message names the operator.
    """
    from mnv3_tf.weights.graphs.tflite import read_tflite_graph

    return find_network(walk(read_tfjs(path) if is_tfjs(path) else read_tflite_graph(path)))


__all__ = ["ForeignConvolution", "ForeignNetwork", "read_convolutions"]
