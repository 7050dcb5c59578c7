"""How much of a backbone's features survives 8 bits without fine-tuning: forms of post-training quantization side by side.

Takes a feature extractor (`benchmarks/fetch_backbone.py` writes one) and a folder of pictures in any layout that training takes.
The training split calibrates; on pictures of the test split, the pooled features of the int8 file (LiteRT, XNNPACK) are compared
with the float network's by their cosine.

    python benchmarks/quantized_features.py backbone.keras --data photos
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

PICTURES = 64


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", type=Path, help="a .keras feature extractor of this kit's layers")
    parser.add_argument("--data", type=Path, required=True, help="pictures")
    parser.add_argument("--calibration-pictures", type=int, default=512)
    arguments = parser.parse_args()
    from mnv3_tf.cli.options import quiet_libraries
    from mnv3_tf.errors import KitError

    quiet_libraries()
    try:
        measure(arguments.backbone, arguments.data, arguments.calibration_pictures)
    except KitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def measure(backbone: Path, data: Path, calibration_pictures: int) -> None:
    """Prints a row for each form."""
    from rich.console import Console
    from rich.table import Table

    from mnv3_tf.data import Preprocessing, open_dataset
    from mnv3_tf.data.batches import ContractPictures
    from mnv3_tf.export.convert.convert import convert_graph
    from mnv3_tf.quantization.calibration import calibrate
    from mnv3_tf.quantization.cross_layer_equalization import equalize
    from mnv3_tf.quantization.fake_quantized import LoweredNetwork
    from mnv3_tf.quantization.fold import trace
    from mnv3_tf.quantization.lowering import lower
    from mnv3_tf.quantization.weight_reconstruction import reconstruct_weights
    from mnv3_tf.tflite.runtime import LiteRTModel

    model = pooled(backbone)
    height, width = model.input_shape[1:3]
    dataset = open_dataset(data)
    rng, contract = np.random.default_rng(0), Preprocessing(height=height, width=width)

    def pictures(split: str, count: int) -> list[np.ndarray]:
        samples = dataset.split(split)
        chosen = tuple(samples[i] for i in rng.permutation(len(samples))[:count])
        return list(ContractPictures(chosen, contract, batch_size=16))

    calibration, test = pictures("train", calibration_pictures), pictures("test", PICTURES)
    expected = np.concatenate([np.asarray(model(batch.astype(np.float32))) for batch in test])
    traced = trace(model)
    table = Table("form", "cosine, mean", "least", "XNNPACK partitions",
                  title=f"pooled features of {backbone.name} in int8, {len(expected)} pictures")
    for form in ("rounding alone", "channels of one size", "and weights fitted to 8 bits"):
        graph = traced if form == "rounding alone" else equalize(traced, calibration)
        ranges = calibrate(graph, calibration).ranges
        if form.startswith("and"):
            graph = reconstruct_weights(graph, ranges, np.concatenate(calibration[:8]))
        network = LoweredNetwork(lower(graph), ranges)
        network.round_biases()
        file = LiteRTModel(convert_graph(network.folded_graph(), ranges, format="int8", io="int8", lowering="xnnpack"))
        found = np.concatenate([file.predict(picture[None]) for batch in test for picture in batch])
        cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        table.add_row(form, f"{cosines.mean():.4f}", f"{cosines.min():.4f}", str(file.partitions))
    Console(highlight=False).print(table)


def pooled(backbone: Path) -> Any:
    """The feature extractor with pooling, and a convolution by the identity, since a network ends in one."""
    import keras

    from mnv3_tf.network.keras_io import load_keras

    model = load_keras(backbone)
    width = model.output_shape[-1]
    features = keras.layers.GlobalAveragePooling2D(keepdims=True, name="head_pool")(model.output)
    identity = keras.layers.Conv2D(width, 1, name="classifier")
    output = keras.layers.Flatten(name="logits")(identity(features))
    identity.set_weights([np.eye(width, dtype=np.float32)[None, None], np.zeros(width, np.float32)])
    return keras.Model(model.input, output)


if __name__ == "__main__":
    sys.exit(main())
