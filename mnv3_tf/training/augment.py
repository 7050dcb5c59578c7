"""Random changes to a training picture, drawn from a generator that depends on (seed, epoch, picture) alone.

Crops are taken in the geometry of the preprocessing contract, so that a picture which is not changed at all comes out as the
contract would make it (up to interpolation).
"""

import math

import numpy as np
from PIL import Image

from mnv3_tf.config import AugmentConfig
from mnv3_tf.data import Preprocessing
from mnv3_tf.training.rand_augment import rand_augment

_LUMA = (0.299, 0.587, 0.114)
_GREY = (127, 127, 127)


def augment(picture: Image.Image, contract: Preprocessing, config: AugmentConfig,
            rng: np.random.Generator) -> np.ndarray:
    """One random version of a picture.

    Args:
        picture: RGB, any size.
        contract: the size and geometry that the model is given.
        config: what to vary and how strongly.
        rng: the source of all randomness.

    Returns:
        uint8 (height, width, 3), RGB pixels.
    """
    changed = _crop(picture, contract, config, rng)
    if config.horizontal_flip and rng.random() < 0.5:
        changed = changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.vertical_flip and rng.random() < 0.5:
        changed = changed.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if config.randaugment:
        changed = rand_augment(changed, config.randaugment, rng)
    changed = _recolour(changed, config, rng)
    pixels = np.array(changed, dtype=np.uint8)
    if config.erase and rng.random() < config.erase:
        _erase(pixels, rng)
    return pixels


def _crop(picture: Image.Image, contract: Preprocessing, config: AugmentConfig,
          rng: np.random.Generator) -> Image.Image:
    """A random box of the picture, perhaps turned, at the contract's size."""
    width, height = picture.size
    target = (contract.width, contract.height)
    whole_w, whole_h = _whole_box(width, height, contract)
    area = rng.uniform(config.smallest_area, 1.0)
    stretch = math.sqrt(math.exp(rng.uniform(-1, 1) * math.log1p(config.aspect)))
    side = math.sqrt(area)
    box_w, box_h = whole_w * min(side * stretch, 1.0), whole_h * min(side / stretch, 1.0)
    left = rng.uniform(min(0.0, width - box_w), max(0.0, width - box_w))
    top = rng.uniform(min(0.0, height - box_h), max(0.0, height - box_h))
    degrees = rng.uniform(-1, 1) * config.rotation if config.rotation and rng.random() < 0.5 else 0.0
    inside = left >= 0 and top >= 0 and left + box_w <= width and top + box_h <= height
    if inside and not degrees:
        return contract.resample(picture, target, (left, top, left + box_w, top + box_h))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    step_x, step_y = box_w / target[0], box_h / target[1]
    centre_x, centre_y = left + box_w / 2, top + box_h / 2
    a, b, d, e = cos * step_x, -sin * step_y, sin * step_x, cos * step_y
    c = centre_x - a * target[0] / 2 - b * target[1] / 2
    f = centre_y - d * target[0] / 2 - e * target[1] / 2
    fill = _GREY if contract.resize != "pad" else tuple(contract.background)
    return picture.transform(target, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR,
                             fillcolor=fill)


def _whole_box(width: int, height: int, contract: Preprocessing) -> tuple[float, float]:
    """Width and height of the part of the source that the contract shows when nothing is cropped at random."""
    if contract.resize == "stretch":
        return width, height
    aspect = contract.width / contract.height
    fit = min if contract.resize == "crop" else max
    box_w = fit(width, height * aspect)
    return box_w, box_w / aspect


def _recolour(picture: Image.Image, config: AugmentConfig, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast about mid-grey and saturation as one affine map of the colours."""
    if not (config.brightness or config.contrast or config.saturation):
        return picture
    brightness = 1 + rng.uniform(-1, 1) * config.brightness
    contrast = 1 + rng.uniform(-1, 1) * config.contrast
    saturation = 1 + rng.uniform(-1, 1) * config.saturation
    gain = brightness * contrast
    offset = 128.0 * brightness * (1 - contrast)
    rows: list[float] = []
    for channel in range(3):
        rows += [gain * ((1 - saturation) * _LUMA[i] + (saturation if i == channel else 0.0)) for i in range(3)]
        rows.append(offset)
    return picture.convert("RGB", tuple(rows))


def _erase(pixels: np.ndarray, rng: np.random.Generator) -> None:
    """Fills a rectangle of 2% to 20% of the picture with one random colour, in place."""
    height, width = pixels.shape[:2]
    area, ratio = rng.uniform(0.02, 0.2), math.exp(rng.uniform(-0.7, 0.7))
    box_h = max(1, min(height, round(height * math.sqrt(area * ratio))))
    box_w = max(1, min(width, round(width * math.sqrt(area / ratio))))
    top, left = rng.integers(0, height - box_h + 1), rng.integers(0, width - box_w + 1)
    pixels[top:top + box_h, left:left + box_w] = rng.integers(0, 256, 3)
