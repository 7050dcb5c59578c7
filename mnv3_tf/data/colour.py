"""Colour profiles: the pixels of a tagged picture in sRGB, which is what Android's `Bitmap.getPixels` gives for it.

A picture without a profile is sRGB already, and so is one whose profile says so: neither is touched.
"""

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

# A profile that moves no colour by more than this many of 256 levels is taken as sRGB.
_SAME = 2
_NO_CACHE = ImageCms.Flags.NOCACHE  # so that threads may share a transform
# Which profiles fit which pixels, as Android's decoder has it.
_FITTING = {"RGB": ("RGB",), "CMYK": ("CMYK",), "L": ("GRAY", "RGB")}
_KIND = {**dict.fromkeys(("1", "L", "LA", "I"), "L"), "CMYK": "CMYK",
         **dict.fromkeys(("RGB", "RGBA", "RGBX", "P", "PA", "YCbCr"), "RGB")}


@dataclass(frozen=True)
class ToSRGB:
    """What a colour profile asks for.

    Attributes:
        convert: RGB picture (of a CMYK profile: a CMYK picture) -> RGB picture in sRGB; None where the pixels stay as they are.
        note: what a person should know about the profile, or None.
    """

    convert: Callable[[Image.Image], Image.Image] | None = None
    note: str | None = None


def to_srgb(image: Image.Image) -> ToSRGB:
    """What the colour profile of a picture asks for; nothing where there is none, or it is sRGB."""
    profile = image.info.get("icc_profile")
    kind = "L" if image.mode.startswith("I;16") else _KIND.get(image.mode)
    return _of_profile(profile, kind) if profile and kind else ToSRGB()


@functools.lru_cache(maxsize=64)  # a data set has few profiles and many pictures
def _of_profile(content: bytes, kind: str) -> ToSRGB:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        if space not in _FITTING[kind]:
            return ToSRGB(note=f"a colour profile for {space} that does not fit the pixels, taken as sRGB")
        mode = "L" if space == "GRAY" else space
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", flags=_NO_CACHE)
        name = ImageCms.getProfileDescription(profile).strip() or "without a name"
        if kind == "CMYK":
            return ToSRGB(functools.partial(_transformed, transform), f"colour profile {name!r} converted to sRGB")
        probe = _grey_ramp(mode) if kind == "L" else _colour_grid()
        found = np.asarray(transform.apply(probe)).astype(int)
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError):
        return ToSRGB(note="a colour profile that cannot be used, taken as sRGB")
    if np.abs(found - np.asarray(probe.convert("RGB"))).max() <= _SAME:
        return ToSRGB()
    note = f"colour profile {name!r} converted to sRGB"
    if kind == "L":
        return ToSRGB(functools.partial(_mapped, np.rint(found[0].mean(-1)).astype(int).tolist()), note)
    return ToSRGB(functools.partial(_transformed, transform), note)


def _transformed(transform: ImageCms.ImageCmsTransform, picture: Image.Image) -> Image.Image:
    converted = transform.apply(picture)
    converted.info.pop("icc_profile", None)
    return converted


def _mapped(levels: list[int], picture: Image.Image) -> Image.Image:
    """Grey stays grey: the same curve for the three equal channels."""
    converted = picture.point(levels * 3)
    converted.info.pop("icc_profile", None)
    return converted


def _grey_ramp(mode: str) -> Image.Image:
    return Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert(mode)


def _colour_grid() -> Image.Image:
    """9 x 9 x 9 colours."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3))
