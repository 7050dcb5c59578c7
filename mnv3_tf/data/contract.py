"""The preprocessing contract: how a picture becomes the model's input, written down once.

Training writes it beside the model; evaluation, prediction, calibration, conversion, the benchmarks and the phone read
it. None of them has a default of its own, so a picture gives bit-identical input everywhere.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from mnv3_tf.data.decode import WHITE, PictureSource, as_rgb, read_picture, upright
from mnv3_tf.data.resample import INTERPOLATIONS, resample
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain, read_json, write_json
from mnv3_tf.text import nearest

VERSION = 1
MAX_SIDE = 4096
_CHOICES: dict[str, tuple[str, ...]] = {
    "resize": ("stretch", "crop", "pad"), "interpolation": INTERPOLATIONS, "channel_order": ("RGB",)}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes uint8 pixels (height, width, 3), and what those pixels mean.

    The picture is decoded as `mnv3_tf.data.decode` says (8-bit sRGB, upright) and is W x H pixels from there on; the input
    is w = `width` by h = `height`. Exactly one resampling step follows, from a box of the source:

    - "stretch": the box (left, top, right, bottom) = (0, 0, W, H) becomes w x h.
    - "crop": with f = `crop_fraction`, box width  bw = f * min(W, H * w / h)  and height  bh = f * min(H, W * h / w);
      the box is ((W - bw) / 2, (H - bh) / 2, W - (W - bw) / 2, H - (H - bh) / 2), in fractions of a pixel, each edge
      rounded to float32, and becomes w x h. It is what "resize so that w/f x h/f is covered, then crop the centre"
      means, without rounding in between.
    - "pad": the whole picture becomes nw x nh. If W * h >= H * w: nw = w, nh = max(1, (2 * H * w + W) div (2 * W));
      otherwise nh = h, nw = max(1, (2 * W * h + H) div (2 * H)). It is put at x = (w - nw) div 2, y = (h - nh) div 2 on
      `background`.

    The resampling is Pillow's (but for "mediapipe"), which widens the filter when it makes a picture smaller. In each
    direction, first along x and then along y, rounded to 8 bits after each: for output pixel i, with scale = (box end -
    box start) / outputs,
    s = max(scale, 1), r = support * s, c = box start + (i + 0.5) * scale, the source pixels x from
    max(0, floor(c - r + 0.5)) up to, not including, min(size, floor(c + r + 0.5)) have the weights
    k((x - c + 0.5) / s), divided by their sum and rounded to multiples of 2^-22; the sum of weight times pixel is
    rounded half up and clipped to 0..255. "bilinear": k(t) = max(0, 1 - |t|), support 1. "bicubic": Keys' cubic with
    a = -0.5, support 2. "area": k(t) = 1 for -0.5 < t <= 0.5, support 0.5. "nearest" takes the source pixel at
    floor(c), where c is added up in double precision, scale by scale.

    "mediapipe" is what MediaPipe's ImageClassifier does: plain bilinear sampling without antialiasing. Output pixel i reads the
    source at x = i * scale (not at pixel centres), rounded to 1/32 of a pixel, half to even; the four pixels around it, the
    border's repeated beyond it, are weighted by the 1/32nds, and their sum divided by 1024, rounded half up.

    Attributes:
        height: rows of the model's input, pixels.
        width: columns of the model's input, pixels.
        resize: "stretch", "crop" or "pad", above.
        crop_fraction: 0 < f <= 1, the part of the covering box that is kept; only "crop" takes another value than 1.
        interpolation: "bilinear", "bicubic", "area", "nearest", or "mediapipe", which goes with "stretch".
        channel_order: "RGB".
        value_range: what the smallest and the largest value of a channel are in the model's input, (0.0, 255.0): plain
            pixels. The model itself brings 0 to -1 and 255 to +1.
        exif_orientation: True; pictures are turned upright first.
        background: RGB, 0..255, behind transparent pixels and beside padded pictures.
        version: of these rules.

    Raises:
        InputError: a field is out of its range; the message names it and what is allowed.
    """

    height: int
    width: int
    resize: Literal["stretch", "crop", "pad"] = "crop"
    crop_fraction: float = 1.0
    interpolation: Literal["bilinear", "bicubic", "nearest", "area", "mediapipe"] = "bilinear"
    channel_order: Literal["RGB"] = "RGB"
    value_range: tuple[float, float] = (0.0, 255.0)
    exif_orientation: bool = True
    background: tuple[int, int, int] = WHITE
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION or isinstance(self.version, bool):
            raise _wrong("version", self.version, f"{VERSION}: this kit knows no other rules")
        for key in ("height", "width"):
            side = getattr(self, key)
            if not _is_int(side) or not 1 <= side <= MAX_SIDE:
                raise _wrong(key, side, f"whole numbers from 1 to {MAX_SIDE}")
        for key, allowed in _CHOICES.items():
            value = getattr(self, key)
            if value not in allowed:
                raise _wrong(key, value, ", ".join(map(repr, allowed)), nearest(str(value), allowed))
        fraction = self.crop_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise _wrong("crop_fraction", fraction, "numbers above 0 and up to 1")
        if fraction != 1 and self.resize != "crop":
            raise _wrong("crop_fraction", fraction, f"1.0 where resize is {self.resize!r}; only 'crop' cuts")
        if self.interpolation == "mediapipe" and self.resize != "stretch":
            raise _wrong("resize", self.resize, "'stretch' where interpolation is 'mediapipe': MediaPipe knows no other")
        values = self.value_range
        if not isinstance(values, tuple | list) or [type(v) in (int, float) and v for v in values] != [0, 255]:
            raise _wrong("value_range", values, "[0.0, 255.0]: the model takes plain pixels and scales them itself")
        if self.exif_orientation is not True:
            raise _wrong("exif_orientation", self.exif_orientation, "true")
        colour = self.background
        if (not isinstance(colour, tuple | list) or len(colour) != 3
                or not all(_is_int(part) and 0 <= part <= 255 for part in colour)):
            raise _wrong("background", colour, "three whole numbers (red, green, blue) from 0 to 255")
        object.__setattr__(self, "crop_fraction", float(fraction))
        object.__setattr__(self, "value_range", (0.0, 255.0))
        object.__setattr__(self, "background", tuple(colour))

    def resample(self, picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
        """A box (left, top, right, bottom) of an RGB picture at `size` (columns, rows), by this contract's interpolation."""
        return resample(picture, size, box, self.interpolation)

    def prepare(self, image: Image.Image) -> np.ndarray:
        """The model's input from a picture that is already open.

        Args:
            image: any mode and size; a picture straight from `PIL.Image.open` gives the same as `load` of its file (only
                the transparent colour of a 2-, 4- or 16-bit PNG needs `load`, which sees the file's own scale).

        Returns:
            uint8 (height, width, 3), RGB, 0..255.
        """
        image = as_rgb(upright(image), self.background)
        size, box, corner = self.geometry(image.width, image.height)
        resized = self.resample(image, size, box)
        if size == (self.width, self.height):
            return np.array(resized)
        canvas = Image.new("RGB", (self.width, self.height), self.background)
        canvas.paste(resized, corner)
        return np.array(canvas)

    def load(self, source: PictureSource) -> np.ndarray:
        """The model's input from a picture file or its bytes: uint8 (height, width, 3).

        Raises:
            PictureError: the file is not a picture that can be used.
        """
        return self.prepare(read_picture(source, background=self.background))

    def geometry(self, width: int, height: int) -> tuple[tuple[int, int], tuple[float, float, float, float],
                                                         tuple[int, int]]:
        """Where the pixels of a `width` x `height` picture go, by the formulas above.

        Returns:
            (columns, rows) of the resized picture; its box in the source (left, top, right, bottom); and its top left
            corner (x, y) in the input.
        """
        whole = (0.0, 0.0, float(width), float(height))
        if self.resize == "stretch":
            return (self.width, self.height), whole, (0, 0)
        if self.resize == "crop":
            box_width = self.crop_fraction * min(width, height * self.width / self.height)
            box_height = self.crop_fraction * min(height, width * self.height / self.width)
            left, top = (width - box_width) / 2, (height - box_height) / 2
            return (self.width, self.height), (left, top, width - left, height - top), (0, 0)
        columns, rows = self.width, self.height
        if width * self.height >= height * self.width:
            rows = max(1, (2 * height * self.width + width) // (2 * width))
        else:
            columns = max(1, (2 * width * self.height + height) // (2 * height))
        return (columns, rows), whole, ((self.width - columns) // 2, (self.height - rows) // 2)

    def check_range(self, array: np.ndarray) -> None:
        """Refuses a model input whose values cannot be pixels from 0 to 255.

        Args:
            array: any shape, integer or float.

        Raises:
            InputError: the values look normalised already, lie outside 0..255, are not finite, or there are none.
        """
        array = np.asarray(array)
        if array.dtype == np.uint8 and array.size:
            return
        if not array.size or array.dtype.kind not in "iuf":
            raise InputError(f"The model's input has shape {array.shape} and type {array.dtype}; it expects pixels from "
                             "0 to 255, uint8 or float. Prepare pictures with Preprocessing.load or .prepare.")
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError("The model's input holds values that are not finite (NaN or infinity); it expects pixels "
                             "from 0 to 255. Look for a division by zero before it.")
        remedy = "Give it the pixels as they are: it scales them itself. Preprocessing.load and .prepare do."
        given = f"The model's input lies in {low:g}..{high:g}"
        if low >= -1 and high <= 1 and (low, high) != (0, 0):
            raise InputError(f"{given}: these pixels look already normalised. The model expects 0..255. {remedy}")
        if low < -0.5 or high > 255.5:
            raise InputError(f"{given}; the model expects pixels from 0 to 255. {remedy}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The contract from the form that :meth:`save` writes; every field must be there.

        Raises:
            InputError: a key is missing or unknown, or its value is of the wrong type or out of range.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"preprocessing: {values!r} is not a table of fields. "
                             "Take the file that training wrote beside the model.")
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                raise InputError(f"preprocessing: unknown key {key!r}{nearest(str(key), names) or '.'} "
                                 f"Allowed: {', '.join(names)}.")
        missing = [name for name in names if name not in values]
        if missing:
            raise InputError(f"preprocessing: no {', '.join(map(repr, missing))}. All of these must be given: "
                             f"{', '.join(names)}. Take the file that training wrote beside the model.")
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Writes the contract as JSON, whole or not at all."""
        write_json(path, self)

    @classmethod
    def read(cls, path: str | Path) -> "Preprocessing":
        """Reads what `save` wrote.

        Raises:
            InputError: as `from_dict`, or no JSON; the message names the file.
        """
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, of the fields as JSON with sorted keys and no spaces: equal if and only if they are."""
        text = json.dumps(plain(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(key: str, value: Any, allowed: str, hint: str = "") -> InputError:
    return InputError(f"preprocessing: {key} is {value!r}{hint or ';'} allowed: {allowed}.")
