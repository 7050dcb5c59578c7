"""Resampling by the contract's rule: Pillow's filters, or the plain bilinear sampling of MediaPipe."""

import numpy as np
from PIL import Image

_BITS = 5  # of the fraction of a pixel that a sampling point is rounded to

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
           "nearest": Image.Resampling.NEAREST, "area": Image.Resampling.BOX}
INTERPOLATIONS = (*FILTERS, "mediapipe")


def resample(picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float],
             interpolation: str) -> Image.Image:
    """A box of an RGB picture at another size.

    Args:
        picture: RGB.
        size: (columns, rows) of the result.
        box: (left, top, right, bottom) in the picture, in pixels.
        interpolation: one of :data:`INTERPOLATIONS`.
    """
    if interpolation != "mediapipe":
        return picture.resize(size, FILTERS[interpolation], box=box, reducing_gap=None)
    left, top, right, bottom = box
    pixels = np.asarray(picture)
    columns = _points(left, (right - left) / size[0], size[0])
    rows = _points(top, (bottom - top) / size[1], size[1])
    return Image.fromarray(_bilinear(pixels, rows, columns))


def _points(start: float, step: float, count: int) -> np.ndarray:
    """Sampling points in 1/32 of a pixel, int64 (count,): output pixel i reads the source at start + i * step."""
    return np.rint((start + np.arange(count) * step) * (1 << _BITS)).astype(np.int64)


def _bilinear(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """uint8 (rows, columns, channels) of the four source pixels around each point, the border's repeated beyond it."""
    unit = 1 << _BITS
    above, top_weight = np.divmod(rows, unit)
    before, left_weight = np.divmod(columns, unit)

    def lines(index: np.ndarray) -> np.ndarray:
        """int32: rows of the source, sampled along x."""
        line = pixels[np.clip(index, 0, pixels.shape[0] - 1)].astype(np.int32)
        first = line[:, np.clip(before, 0, pixels.shape[1] - 1)]
        second = line[:, np.clip(before + 1, 0, pixels.shape[1] - 1)]
        weight = left_weight.astype(np.int32)[None, :, None]
        return first * (unit - weight) + second * weight

    weight = top_weight.astype(np.int32)[:, None, None]
    total: np.ndarray = lines(above) * (unit - weight) + lines(above + 1) * weight
    return np.right_shift(total + (1 << (2 * _BITS - 1)), 2 * _BITS, dtype=np.int32).astype(np.uint8)
