"""Pictures with their exact input tensors and output bytes, so that an app can test itself."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv3_tf.data import Preprocessing, Sample, read_picture
from mnv3_tf.metrics import softmax
from mnv3_tf.tflite.file import dequantize
from mnv3_tf.tflite.runtime import LiteRTModel, pixel_tensor

# Goldens are PNG files, which every decoder reads alike; photos are made so small that a bundle stays small.
_LONGEST_SIDE = 480


def golden_pictures(samples: Sequence[Sample], count: int) -> list[tuple[str, Image.Image]]:
    """(name, RGB picture) of some pictures, class after class as far as they go.

    Args:
        samples: to choose from.
        count: how many.
    """
    by_class: dict[int, list[Sample]] = {}
    for sample in samples:
        by_class.setdefault(sample.label, []).append(sample)
    in_turns = [sample for each in itertools.zip_longest(*by_class.values()) for sample in each if sample is not None]
    made = [(sample.path.name, read_picture(sample.path).copy()) for sample in in_turns[:count]]
    for _, picture in made:
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return made


def generated_pictures(count: int, seed: int = 0) -> list[tuple[str, Image.Image]]:
    """(name, RGB picture) of soft patterns in several shapes, wide, tall and square, the same on every machine."""
    rng = np.random.default_rng(seed)
    sizes = ((320, 240), (240, 320), (256, 256), (401, 223))
    made = []
    for number in range(count):
        cells = rng.integers(0, 256, (4 + 3 * (number % 4), 5 + 3 * (number % 4), 3), dtype=np.uint8)
        picture = Image.fromarray(cells).resize(sizes[number % len(sizes)], Image.Resampling.BICUBIC)
        made.append((f"pattern {number}", picture))
    return made


def write_goldens(folder: Path, pictures: Sequence[tuple[str, Image.Image]], contract: Preprocessing, model: LiteRTModel,
                  labels: Sequence[str], *, scores: bool) -> list[dict[str, Any]]:
    """Writes NN.png, NN.input.bin and NN.output.bin for each picture.

    Returns:
        The content of goldens.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, (name, picture) in enumerate(pictures):
        stem = f"{number:02d}"
        picture.save(folder / f"{stem}.png")
        tensor = pixel_tensor(contract.load(folder / f"{stem}.png"), model.input_dtype)[None]
        output = model.run_raw(tensor)
        (folder / f"{stem}.input.bin").write_bytes(tensor.tobytes())
        (folder / f"{stem}.output.bin").write_bytes(output.tobytes())
        real = dequantize(output.reshape(1, -1), *model.output_quantization).astype(np.float64)
        probabilities = (real if scores else softmax(real))[0]
        best = int(probabilities.argmax())
        entries.append({"name": name, "picture": f"{folder.name}/{stem}.png", "input": f"{folder.name}/{stem}.input.bin",
                        "output": f"{folder.name}/{stem}.output.bin", "index": best, "label": labels[best],
                        "score": round(float(probabilities[best]), 6)})
    return entries
