"""RandAugment: what each operation does to a picture of known pixels, and what is drawn."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mnv3_tf.training import rand_augment as module
from mnv3_tf.training.rand_augment import OPERATIONS, rand_augment


def picture(width: int = 40, height: int = 20) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(20, 220, (height, width, 3), np.uint8))


def flat(*colour: int) -> Image.Image:
    return Image.new("RGB", (40, 20), colour)


def pixels(name: str, strength: float, source: Image.Image) -> np.ndarray:
    return np.asarray(OPERATIONS[name](source, strength))


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize"}))
def test_without_strength_nothing_changes(name: str) -> None:
    source = picture()
    assert np.array_equal(pixels(name, 0.0, source), source)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("strength", [-1.0, 0.37, 1.0])
def test_size_and_mode_stay(name: str, strength: float) -> None:
    result = OPERATIONS[name](picture(), strength)
    assert result.size == (40, 20) and result.mode == "RGB"


def test_known_pixels() -> None:
    source = flat(100, 100, 100)
    assert (pixels("brightness", 0.5, source) == 145).all() and (pixels("brightness", -1.0, source) == 10).all()
    assert (pixels("solarize", 0.5, flat(127, 128, 255)) == (127, 127, 0)).all()
    assert (pixels("solarize", -1.0, flat(0, 1, 255)) == (255, 254, 0)).all()
    assert (pixels("posterize", 1.0, flat(255, 31, 16)) == (240, 16, 16)).all()
    assert (pixels("color", -1.0, flat(200, 0, 0)) == np.rint(0.1 * np.array([200, 0, 0]) + 0.9 * 60)).all()
    wide = np.asarray(OPERATIONS["autocontrast"](picture(), 1.0))
    assert wide.min() == 0 and wide.max() == 255


def test_shifts_and_shears() -> None:
    source = np.asarray(picture())
    left = pixels("translate x", 1.0, picture())  # by 18 of 40
    assert np.array_equal(left[:, :22], source[:, 18:]) and (left[:, 22:] == 127).all()
    down = pixels("translate y", -1.0, picture())  # by 9 of 20
    assert np.array_equal(down[9:], source[:11]) and (down[:9] == 127).all()
    stripe = np.full((21, 41, 3), 127, np.uint8)  # of the colour that comes in at the borders
    stripe[:, 20] = 255
    sheared = pixels("shear x", 1.0, Image.fromarray(stripe))[..., 0] - 127.0
    place = (sheared * np.arange(41)).sum(axis=1) / sheared.sum(axis=1)
    assert np.allclose(np.diff(place), -0.3, atol=0.12) and place[10] == pytest.approx(20, abs=0.3)


def test_the_same_generator_gives_the_same_picture() -> None:
    first, again, other = (np.asarray(rand_augment(picture(), 9, np.random.default_rng(seed))) for seed in (4, 4, 5))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """All operations alike, two for a picture of which each is left out half of the time, both signs, strengths around 9."""
    drawn: list[tuple[str, float]] = []
    monkeypatch.setattr(module, "OPERATIONS", {
        name: lambda picture, strength, name=name: (drawn.append((name, strength)), picture)[1] for name in OPERATIONS})
    rng = np.random.default_rng(0)
    for _ in range(3000):
        rand_augment(flat(1, 2, 3), 9.0, rng)
    counts, strengths = Counter(name for name, _ in drawn), np.array([strength for _, strength in drawn])
    assert len(drawn) == pytest.approx(3000, rel=0.05) and min(counts.values()) > 0.75 * 3000 / 14
    assert (strengths > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert np.abs(strengths).mean() == pytest.approx(0.9, abs=0.01) and np.abs(strengths).max() == 1.0
    assert np.abs(strengths).std() == pytest.approx(0.05, abs=0.01)
