"""RandAugment: every picture is changed by two operations out of fourteen, drawn at random, all of one strength.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020. As timm's recipes for
MobileNets have it, an operation is left out half of the time, the strength varies a little, and shifts go up to 45% of a side.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

# The strength 10 of each change: degrees, the tangent of a shear, the share of a side, the change of a factor around 1.
_DEGREES, _SHEAR, _SHIFT, _FACTOR = 30.0, 0.3, 0.45, 0.9
_POSTERIZED_BITS = 4
_OPERATIONS, _LEFT_OUT, _SPREAD, _STRONGEST = 2, 0.5, 0.5, 10.0
_GREY = (127, 127, 127)

# A picture and a strength, -1..1 -> a picture.
Operation = Callable[[Image.Image, float], Image.Image]


def _affine(coefficients: Callable[[Image.Image, float], tuple[float, ...]]) -> Operation:
    def apply(picture: Image.Image, strength: float) -> Image.Image:
        return picture.transform(picture.size, Image.Transform.AFFINE, coefficients(picture, strength),
                                 Image.Resampling.BILINEAR, fillcolor=_GREY)

    return apply


def _enhanced(enhance: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, strength: enhance(picture).enhance(1 + _FACTOR * strength)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda picture, _: picture,
    "autocontrast": lambda picture, _: ImageOps.autocontrast(picture),
    "equalize": lambda picture, _: ImageOps.equalize(picture),
    "rotate": lambda picture, strength: picture.rotate(_DEGREES * strength, Image.Resampling.BILINEAR, fillcolor=_GREY),
    "solarize": lambda picture, strength: ImageOps.solarize(picture, round(256 * (1 - abs(strength)))),
    "posterize": lambda picture, strength: ImageOps.posterize(picture, 8 - round((8 - _POSTERIZED_BITS) * abs(strength))),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear x": _affine(lambda picture, strength: (1, _SHEAR * strength, -_SHEAR * strength * picture.height / 2, 0, 1, 0)),
    "shear y": _affine(lambda picture, strength: (1, 0, 0, _SHEAR * strength, 1, -_SHEAR * strength * picture.width / 2)),
    "translate x": _affine(lambda picture, strength: (1, 0, _SHIFT * strength * picture.width, 0, 1, 0)),
    "translate y": _affine(lambda picture, strength: (1, 0, 0, 0, 1, _SHIFT * strength * picture.height)),
}


def rand_augment(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """One random version of a picture.

    Args:
        picture: RGB.
        strength: 0..10, RandAugment's magnitude.
        rng: the source of all randomness.

    Returns:
        RGB, of the same size.
    """
    operations = list(OPERATIONS.values())
    for operation in rng.choice(len(operations), _OPERATIONS):
        drawn = np.clip(rng.normal(strength, _SPREAD), 0, _STRONGEST) / _STRONGEST
        sign = 1 if rng.random() < 0.5 else -1
        if rng.random() >= _LEFT_OUT:
            picture = operations[operation](picture, sign * float(drawn))
    return picture
