"""Pictures without a data set."""

import numpy as np


def synthetic_pictures(count: int, size: int, *, seed: int = 0) -> np.ndarray:
    """Deterministic pictures: colour gradients with blocks and noise over them, each using the whole range 0..255.

    They calibrate networks with random weights only; a trained network is calibrated with real pictures.

    Returns:
        float32 (count, size, size, 3), whole numbers from 0 to 255.
    """
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] / max(size - 1, 1)
    pictures = np.empty((count, size, size, 3), np.float32)
    for picture in pictures:
        slopes = random.normal(size=(2, 3))
        picture[:] = rows[..., None] * slopes[0] + columns[..., None] * slopes[1]
        for _ in range(6):
            top, left = random.integers(0, size, size=2)
            height, width = random.integers(1, max(size // 2, 1) + 1, size=2)
            picture[top:top + height, left:left + width] += random.normal(size=3)
        picture += random.normal(scale=0.1, size=picture.shape)
        picture -= np.min(picture)
        picture *= 255.0 / max(float(np.max(picture)), 1e-6)
    return np.clip(np.rint(pictures), 0.0, 255.0)
