"""Decoding by content and the preprocessing contract."""

import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv3_tf.data import PictureError, Preprocessing, read_picture
from mnv3_tf.data import decode as decoding
from mnv3_tf.data.decode import decode, name_note
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def colour(content: bytes) -> tuple[int, ...]:
    """The top left pixel after decoding."""
    picture = read_picture(content)
    assert picture.mode == "RGB"
    return picture.getpixel((0, 0))  # type: ignore[return-value]


RED = Image.new("RGB", (8, 6), (200, 30, 20))


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP", "JPEG", "GIF"])
def test_every_allowed_format(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {"quality": 98} if format == "JPEG" else {}
    assert np.allclose(colour(encoded(RED, format, **options)), (200, 30, 20), atol=4)


def test_modes_become_rgb() -> None:
    """Grey, grey with alpha, palette, palette with transparency, RGBA, one bit, 16 bit: hand-computed colours."""
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    cases = {
        (77, 77, 77): encoded(Image.new("L", (4, 4), 77), "PNG"),
        (255, 255, 255): encoded(Image.new("RGBA", (4, 4), (5, 5, 5, 0)), "PNG"),  # transparent: white shows
        (10, 20, 30): encoded(palette, "PNG"),
        (0, 0, 0): encoded(Image.new("1", (4, 4), 0), "PNG"),
        (128, 128, 128): encoded(Image.fromarray(np.full((4, 4), 128 * 256 + 7, np.uint16)), "PNG"),
    }
    for expected, content in cases.items():
        assert colour(content) == expected
    # alpha 51 of 255: 0.2 * 100 + 0.8 * 255 = 224
    assert colour(encoded(Image.new("RGBA", (4, 4), (100, 100, 100, 51)), "PNG")) == (224, 224, 224)
    assert colour(encoded(Image.new("LA", (4, 4), (0, 0)), "PNG")) == (255, 255, 255)
    assert colour(encoded(palette, "PNG", transparency=1)) == (255, 255, 255)


def test_cmyk_is_not_inverted() -> None:
    # Cyan 255 takes all red away; what is left is green and blue.
    assert np.allclose(colour(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=98)), (0, 255, 255), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    """A picture stored turned is shown upright: red top left, green top right, blue bottom left."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12], upright[:8, 12:], upright[8:, :12] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    turns = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
             5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
             8: lambda a: np.rot90(a, -1)}
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_picture(encoded(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(picture), upright)


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(RED, "GIF"))
    assert read_picture(path).size == (8, 6)
    format_name = decode(path.read_bytes(), str(path))[1]
    assert format_name == "GIF" and "GIF" in (name_note(path, format_name) or "")


def test_the_first_of_several_frames_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert colour(content) == (255, 0, 0)
    assert decode(content, "x")[2] == ("3 frames, the first is used",)


def noise(format: str) -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)), format)


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "zero bytes"), (b"hello, no picture", "not a picture"), (noise("JPEG")[:600], "truncated"),
    (noise("PNG")[:600], "truncated|damaged"), (noise("TIFF")[:600], "truncated|damaged"),
], ids=["empty", "text", "jpeg", "png", "tiff"])
def test_unusable_pictures_are_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=rf"bad\.jpg.*{reason}"):
        read_picture(path)


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "memory_bytes", lambda: 16 * 10)
    with pytest.raises(PictureError, match=r"8 x 6 pixels .* \(10\): a decompression bomb"):
        read_picture(encoded(RED, "PNG"))
    huge = bytearray(encoded(RED, "PNG"))
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    monkeypatch.undo()
    with pytest.raises(PictureError, match=r"60000 x 60000 pixels .*decompression bomb"):
        read_picture(bytes(huge))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("width", "height"), [(12000, 9000), (16320, 12240)])
def test_photos_of_108_and_200_megapixels(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "108MP.jpg"
    Image.new("RGB", (width, height), (120, 130, 90)).save(path, quality=40)
    small = read_picture(path, draft=(280, 280))  # what training does
    assert small.size == (width // 8, height // 8)
    whole = Preprocessing(height=32, width=32).load(path)  # what everything else does
    assert np.abs(np.asarray(small.resize((32, 32))).astype(int) - whole).max() <= 1


def tiff(image: Image.Image, **options: object) -> bytes:
    return encoded(image, "TIFF", **options)


def test_tiff_of_every_depth() -> None:
    noted = {"agricultural": tiff(RED, compression="tiff_lzw"), "grey": tiff(Image.new("L", (4, 4), 77)),
             "jpeg": tiff(Image.new("RGB", (16, 16), (200, 30, 20)), compression="jpeg"),
             "16": tiff(Image.fromarray(np.full((4, 4), 128 * 256 + 7, np.uint16))),
             "inverse": tiff(Image.fromarray(np.full((4, 4), 128 * 256 + 7, np.uint16)), tiffinfo={262: 0}),
             "alpha": tiff(Image.new("RGBA", (4, 4), (5, 5, 5, 0))), "cmyk": tiff(Image.new("CMYK", (4, 4), (255, 0, 0, 0)))}
    expected = {"agricultural": (200, 30, 20), "grey": (77,) * 3, "jpeg": (200, 30, 20), "16": (128,) * 3, "inverse": (127,) * 3,
                "alpha": (255,) * 3, "cmyk": (0, 255, 255)}
    for name, content in noted.items():
        assert np.allclose(colour(content), expected[name], atol=3 if name == "jpeg" else 0), name
        assert decode(content, name)[1] == "TIFF"
    assert decode(noted["16"], "16")[2] == ("16-bit, scaled to 8", "grey, the three channels are equal")
    pages = tiff(RED, save_all=True, append_images=[Image.new("RGB", (8, 6))])
    assert colour(pages) == (200, 30, 20) and decode(pages, "x")[2] == ("2 pages, the first is used",)


def test_tiff_is_turned_upright_once() -> None:
    wide = Image.new("RGB", (8, 6), (255, 0, 0))
    wide.putpixel((0, 0), (0, 0, 255))
    picture, _, notes = decode(tiff(wide, tiffinfo={0x0112: 6}), "x")  # shown turned clockwise: top left becomes top right
    assert picture.size == (6, 8) and picture.getpixel((5, 0)) == (0, 0, 255) and notes == ("TIFF orientation applied",)
    contract = Preprocessing(height=8, width=6, resize="stretch", interpolation="nearest")
    opened = Image.open(io.BytesIO(tiff(wide, tiffinfo={0x0112: 6})))
    assert np.array_equal(contract.prepare(opened), np.asarray(picture))


@pytest.mark.parametrize(("content", "what"), [
    (tiff(Image.new("F", (4, 4))), "floating-point"), (tiff(Image.new("I", (4, 4))), "32-bit"),
    (tiff(RED, tiffinfo={254: 1}), "a camera's raw file"), (tiff(RED, tiffinfo={50706: b"\1\4\0\0"}), "a camera's raw file"),
    (tiff(RED).replace(b"\6\1\3\0\1\0\0\0\2", b"\6\1\3\0\1\0\0\0\7"), "a TIFF of a kind that is not read"),
], ids=["float", "32-bit", "nef", "dng", "unknown colours"])
def test_tiff_that_is_no_picture_is_named(content: bytes, what: str) -> None:
    with pytest.raises(PictureError, match=what):
        read_picture(content)


@pytest.mark.parametrize("suffix", [".heic", ".jpg"])
@pytest.mark.parametrize(("start", "what"), [
    (b"\0\0\0\x24ftypheic\0\0\0\0mif1heicmiaf", "HEIC.*Most Compatible"), (b"\0\0\0\x24ftypmif1\0\0\0\0mif1heic", "HEIC"),
    (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF"), (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
    (b"\0\0\0\x18ftypcrx ", "raw file"), (b"\0\0\0\x18ftypmp42", "video"), (b"II*\0\x10\0\0\0CR\2\0", r"raw file \(CR2\)"),
    (b"8BPS\0\1", "Photoshop"), (b"%PDF-1.7", "PDF"), (b'<?xml version="1.0"?>\n<svg xmlns="', "SVG"),
    (b"<!DOCTYPE html><html>", "web page"),
    (b"PK\3\4", "archive"), (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\0" * 128 + b"DICM", "DICOM"),
    (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"), (b"\0\5\x16\7\0\2", "AppleDouble"),
    (b"\0" * 600, "zero bytes"), (b"\x93NUMPY", "NumPy"), (b"P6\n2 2\n255\n", "pixmap"),
])
def test_what_is_no_picture_is_named_for_what_it_is(start: bytes, what: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"IMG_0001{suffix}"
    path.write_bytes(start + b"\0" * 400)
    with pytest.raises(PictureError, match=rf"IMG_0001\{suffix}: holds .*{what}"):
        read_picture(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png"):
        read_picture(tmp_path / "gone.png")


GRADIENT = Image.fromarray(np.stack([np.tile(np.arange(100, dtype=np.uint8), (50, 1))] * 3, axis=-1))


def test_stretch_of_an_exact_half() -> None:
    # Halving with the "area" filter averages pairs: columns 0,1 -> 0.5 -> rounded half up.
    pixels = Preprocessing(height=25, width=50, resize="stretch", interpolation="area").prepare(GRADIENT)
    assert pixels.shape == (25, 50, 3) and pixels.dtype == np.uint8
    assert pixels[0, :3, 0].tolist() == [1, 3, 5]


def test_crop_takes_the_centre() -> None:
    # 100x50 to a square: the middle 50 columns, 25..74, at their own size.
    pixels = Preprocessing(height=50, width=50, resize="crop", interpolation="nearest").prepare(GRADIENT)
    assert pixels[0, :, 0].tolist() == list(range(25, 75))
    half = Preprocessing(height=50, width=50, resize="crop", crop_fraction=0.5, interpolation="nearest").prepare(GRADIENT)
    assert half[0, 0, 0] == 37 and half[0, -1, 0] == 62


def test_pad_keeps_the_whole_picture_on_the_background() -> None:
    pixels = Preprocessing(height=100, width=100, resize="pad", interpolation="nearest", background=(9, 8, 7)).prepare(GRADIENT)
    assert pixels[0, 0].tolist() == [9, 8, 7] and pixels[-1, -1].tolist() == [9, 8, 7]
    assert pixels[25, :, 0].tolist() == list(range(100))


def test_mediapipes_sampling_by_hand() -> None:
    """100 columns to 40: output i reads x = 2.5 i, so 0, 2.5, 5, ...: the values themselves, halves rounded up."""
    pixels = Preprocessing(height=32, width=40, resize="stretch", interpolation="mediapipe").prepare(GRADIENT)
    assert pixels[0, :4, 0].tolist() == [0, 3, 5, 8] and pixels[31, 39, 0] == 98
    # Making larger: 2 columns to 8 read 0, 0.25, ... and repeat the border.
    two = Image.fromarray(np.array([[[0] * 3, [128] * 3]], np.uint8))
    wide = Preprocessing(height=1, width=8, resize="stretch", interpolation="mediapipe").prepare(two)
    assert wide[0, :, 0].tolist() == [0, 32, 64, 96, 128, 128, 128, 128]


def test_mediapipes_sampling_is_mediapipes() -> None:
    """Pictures of random pixels, and what the ImageClassifier of mediapipe 1.2.3 gave a network that passes its input on."""
    goldens = np.load(Path(__file__).parent / "mediapipe_resize.npz")
    for name in ("smaller", "larger", "odd"):
        picture, expected = goldens[f"{name}_picture"], goldens[f"{name}_tensor"]
        contract = Preprocessing(height=expected.shape[0], width=expected.shape[1], resize="stretch", interpolation="mediapipe")
        np.testing.assert_array_equal(contract.prepare(Image.fromarray(picture)), expected)


def test_mediapipe_knows_only_stretching() -> None:
    with pytest.raises(InputError, match="'stretch' where interpolation is 'mediapipe'"):
        Preprocessing(height=32, width=32, resize="crop", interpolation="mediapipe")


def test_one_contract_gives_one_tensor(tmp_path: Path) -> None:
    """Written, read again, from a file, from bytes or from an open picture: bit-identical."""
    contract = Preprocessing(height=33, width=47, resize="crop", crop_fraction=0.9, interpolation="bicubic")
    contract.save(tmp_path / "preprocessing.json")
    again = Preprocessing.read(tmp_path / "preprocessing.json")
    path = tmp_path / "p.png"
    path.write_bytes(encoded(GRADIENT, "PNG"))
    tensors = [contract.load(path), again.load(path.read_bytes()), again.prepare(Image.open(path))]
    assert all(np.array_equal(tensors[0], tensor) for tensor in tensors)
    assert again == contract and again.fingerprint() == contract.fingerprint()
    assert contract.fingerprint() != Preprocessing(height=33, width=48).fingerprint()


@pytest.mark.parametrize(("change", "message"), [
    ({"resize": "squash"}, "stretch"), ({"height": 0}, "height"), ({"widht": 3}, "width"),
    ({"crop_fraction": 2.0}, "crop_fraction"),
    ({"interpolation": "lanczos"}, "bilinear"), ({"channel_order": "BGR"}, "RGB"),
])
def test_wrong_contracts_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    values = plain(Preprocessing(height=32, width=32)) | change
    (tmp_path / "p.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"p\.json.*{message}"):
        Preprocessing.read(tmp_path / "p.json")


@pytest.mark.parametrize(("array", "message"), [
    (np.linspace(-1, 1, 10), "already normalised"), (np.linspace(0, 1, 10), "already normalised"),
    (np.array([0, 300.0]), "0 to 255"), (np.array([-5.0, 3]), "0 to 255"), (np.array([np.nan]), "not finite"),
])
def test_values_that_are_no_pixels_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocessing(height=32, width=32).check_range(array)


def test_pixels_pass() -> None:
    contract = Preprocessing(height=32, width=32)
    for array in (np.array([0, 255], np.uint8), np.array([0.0, 255.0]), np.zeros(3)):
        contract.check_range(array)
