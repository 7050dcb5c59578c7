"""Colour profiles: the network sees sRGB, as Android's `Bitmap.getPixels` gives it."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mnv3_tf.data import Preprocessing, read_picture
from mnv3_tf.data.colour import to_srgb
from mnv3_tf.data.decode import decode

# Columns: red, green and blue of each space, adapted to D50, as their profiles have them.
SRGB = np.array([(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]).T
DISPLAY_P3 = np.array([(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)]).T
ADOBE_RGB = np.array([(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]).T
WHITE_D50 = (0.9642, 1.0, 0.8249)


def fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc(name: str, colours: np.ndarray | None, gamma: float) -> bytes:
    """A profile of version 2: of three primaries, or of grey; one gamma."""
    text = name.encode() + b"\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78, b"cprt": b"text\0\0\0\0none\0",
            b"wtpt": b"XYZ \0\0\0\0" + fixed(*WHITE_D50)}
    if colours is None:
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip("rgb", colours.T, strict=True):
            tags[f"{letter}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(*column)
            tags[f"{letter}TRC".encode()] = curve
    table, data = b"", b""
    for tag, body in tags.items():
        body += b"\0" * (-len(body) % 4)
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(body))
        data += body
    head = struct.pack(">I4sI", 132 + len(table) + len(data), b"lcms", 0x02400000) + b"mntr"
    head += (b"GRAY" if colours is None else b"RGB ") + b"XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(*WHITE_D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def srgb(pixels: np.ndarray, colours: np.ndarray, gamma: float) -> np.ndarray:
    """By hand: to light, to the primaries of sRGB, to levels."""
    light = (pixels / 255) ** gamma @ (np.linalg.inv(SRGB) @ colours).T
    light = np.clip(light, 0, 1)
    levels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(levels * 255)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


COLOURS = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), -1).reshape(6, 36, 3)
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(("colours", "name"), [(DISPLAY_P3, "Display P3"), (ADOBE_RGB, "Adobe RGB (1998)")])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_wide_colours_become_srgb(colours: np.ndarray, name: str, format: str, tmp_path: Path) -> None:
    expected = srgb(COLOURS, colours, 2.2)
    assert np.abs(expected - COLOURS).max() > 30  # it matters
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / "photo"
    path.write_bytes(encoded(Image.fromarray(COLOURS), format, icc_profile=icc(name, colours, 2.2), **options))
    contract = Preprocessing(height=6, width=36, resize="stretch")
    assert np.abs(contract.load(path).astype(int) - expected).max() <= 2
    assert decode(path.read_bytes(), "photo")[2] == (f"colour profile {name!r} converted to sRGB",)
    assert np.array_equal(contract.prepare(Image.open(path)), contract.load(path))
    assert np.array_equal(contract.prepare(read_picture(path)), contract.load(path))  # not converted twice


def test_a_photo_in_display_p3_as_jpeg() -> None:
    flat = Image.new("RGB", (64, 48), (200, 60, 40))
    plain, wide = (read_picture(encoded(flat, "JPEG", quality=95, **options)).getpixel((9, 9))
                   for options in ({}, {"icc_profile": icc("Display P3", DISPLAY_P3, 2.2)}))
    assert np.allclose(plain, (200, 60, 40), atol=2)
    assert np.allclose(wide, srgb(np.array((200, 60, 40)), DISPLAY_P3, 2.2), atol=3)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "I;16"])
def test_srgb_is_left_as_it_is(mode: str) -> None:
    rgb = Image.fromarray(COLOURS)
    image = Image.fromarray(np.arange(0, 65536, 300, dtype=np.uint16)[None]) if mode == "I;16" else rgb.convert(mode)
    tagged, untagged = encoded(image, icc_profile=SRGB_PROFILE), encoded(image)
    assert np.array_equal(np.asarray(read_picture(tagged)), np.asarray(read_picture(untagged)))
    assert decode(tagged, "x")[2] == decode(untagged, "x")[2]


@pytest.mark.parametrize("mode", ["L", "I;16", "1"])
def test_grey_profiles(mode: str) -> None:
    """Gamma 1.0 in grey: 51/255 of the light is level 124 of sRGB; the three channels stay equal."""
    levels = np.tile(np.array([0, 51, 255], np.uint8), (4, 1))
    image = Image.fromarray(levels.astype(np.uint16) << 8) if mode == "I;16" else Image.fromarray(levels).convert(mode, dither=0)
    pixels = np.asarray(read_picture(encoded(image, icc_profile=icc("linear grey", None, 1.0))))
    assert np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    expected = [0, 124, 255] if mode != "1" else [0, 0, 255]
    assert np.abs(pixels[0, :, 0].astype(int) - expected).max() <= 2


def test_transparent_pixels_are_converted_before_they_are_blended() -> None:
    profile = icc("Display P3", DISPLAY_P3, 2.2)
    half = Image.new("RGBA", (4, 4), (200, 60, 40, 51))
    whole = srgb(np.array((200, 60, 40)), DISPLAY_P3, 2.2)
    pixel = read_picture(encoded(half, icc_profile=profile)).getpixel((0, 0))
    assert np.allclose(pixel, 0.2 * whole + 0.8 * 255, atol=1.5)


@pytest.mark.parametrize(("mode", "profile", "note"), [
    ("RGB", b"no profile", "cannot be used, taken as sRGB"), ("L", icc("x", None, 2.2)[:150], "cannot be used, taken as sRGB"),
    ("RGB", icc("grey", None, 1.0), "for GRAY that does not fit"),
    ("CMYK", icc("P3", DISPLAY_P3, 2.2), "for RGB that does not fit"),
])
def test_profiles_that_do_not_work_are_noted_and_change_nothing(mode: str, profile: bytes, note: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    tagged = encoded(image, "TIFF", icc_profile=profile)
    picture, _, notes = decode(tagged, "x")
    assert np.array_equal(np.asarray(picture), np.asarray(read_picture(encoded(image, "TIFF"))))
    assert any(note in text for text in notes)


def test_cmyk_follows_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a printing profile at hand: the transform gets the inks as Pillow has them, and its RGB is the picture."""
    seen = []

    class Inks:
        def apply(self, picture: Image.Image) -> Image.Image:
            seen.append((picture.mode, picture.getpixel((0, 0))))
            return Image.new("RGB", picture.size, (1, 2, 3))

    class Profile:
        def __init__(self, file: object) -> None:
            self.profile = type("Core", (), {"xcolor_space": "CMYK"})

    monkeypatch.setattr(ImageCms, "ImageCmsProfile", Profile)
    monkeypatch.setattr(ImageCms, "buildTransform", lambda *arguments, **options: Inks())
    monkeypatch.setattr(ImageCms, "getProfileDescription", lambda profile: "Coated FOGRA39\n")
    picture, _, notes = decode(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "TIFF", icc_profile=b"inks of a test"), "x")
    assert seen == [("CMYK", (255, 0, 0, 0))] and picture.getpixel((0, 0)) == (1, 2, 3)
    assert notes == ("colour profile 'Coated FOGRA39' converted to sRGB",)


def test_a_profile_is_looked_at_once() -> None:
    first = to_srgb(Image.open(io.BytesIO(encoded(Image.fromarray(COLOURS), icc_profile=icc("P3", DISPLAY_P3, 2.2)))))
    again = to_srgb(Image.open(io.BytesIO(encoded(Image.fromarray(COLOURS), icc_profile=icc("P3", DISPLAY_P3, 2.2)))))
    assert first is again and first.convert is not None
