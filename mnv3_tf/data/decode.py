"""Pictures: decoded by content, always 8-bit RGB, always upright, or refused in one clear line.

Every entry of the kit (training, evaluation, prediction, calibration, the scan before training) decodes here, so a file
gives the same pixels everywhere. The rules:

- The format is found in the bytes, never in the name: JPEG, PNG, WebP, BMP and GIF.
- Of several frames the first is used.
- 16-bit channels keep their high byte (0..65535 becomes 0..255), as Android's decoder does.
- CMYK and YCCK JPEG follow Adobe's inverted convention; R = (255-C)(255-K)/255, and so on.
- Transparent pixels are blended onto a background: (alpha * colour + (255-alpha) * background) / 255, rounded.
- The EXIF orientation (not XMP) is applied last.

Nothing here holds the interpreter lock for long or shares state, so threads may call it freely.
"""

import io
import os
from pathlib import Path

import numpy as np
from PIL import (  # the plugins register themselves here, not in whichever thread comes first
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from mnv3_tf.errors import InputError

_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin)
FORMATS = ("JPEG", "PNG", "WebP", "BMP", "GIF")
_NAMES = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "WEBP": "WebP", "BMP": "BMP", "DIB": "BMP", "GIF": "GIF"}
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WebP",
             ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".heic": "HEIC", ".avif": "AVIF"}
_ORIENTATION_TAG = 0x0112
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}
MAX_FILE_BYTES = 1 << 29
WHITE = (255, 255, 255)

PictureSource = str | os.PathLike[str] | bytes


class PictureError(InputError):
    """A picture that cannot be used.

    Attributes:
        name: the file, as it was given.
        reason: what is wrong with it, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_picture(source: PictureSource, *, background: tuple[int, int, int] = WHITE, draft: tuple[int, int] | None = None,
                 name: str | None = None) -> Image.Image:
    """Decodes a picture to 8-bit RGB, upright.

    Args:
        source: path of the file, or its bytes.
        background: RGB, 0..255, that transparent pixels are blended onto.
        draft: (height, width) in pixels that the picture will be resized to. A JPEG that is at least four times larger
            is then decoded at 1/2, 1/4 or 1/8 of its size, never below twice `draft`. Faster, and not the same pixels:
            for training only, never for evaluation.
        name: what messages call the picture, where `source` is bytes.

    Returns:
        The picture, mode RGB, detached from the file.

    Raises:
        PictureError: the file is missing, empty, truncated, too large or no picture of an allowed format.
    """
    name = name or ("picture" if isinstance(source, bytes) else os.fspath(source))
    content = source if isinstance(source, bytes) else picture_bytes(source)
    return decode(content, name, background=background, draft=draft)[0]


def name_note(name: str | os.PathLike[str], format_name: str) -> str | None:
    """The note for a file whose name promises another format than it holds, such as "named .jpg but holds PNG"."""
    suffix = Path(name).suffix
    promised = _SUFFIXES.get(suffix.lower())
    return f"named {suffix} but holds {format_name}" if promised not in (None, format_name) else None


def decode(content: bytes, name: str, *, background: tuple[int, int, int] = WHITE,
           draft: tuple[int, int] | None = None) -> tuple[Image.Image, str, tuple[str, ...]]:
    """Decodes the bytes of a picture; what comes of it depends on the content alone, not on `name`.

    Returns:
        The RGB picture; its format, one of `FORMATS`; and what was unusual, in words: nothing for an ordinary picture.

    Raises:
        PictureError: as `read_picture`; it carries `name`.
    """
    if not content:
        raise PictureError(name, "the file is empty (zero bytes).")
    try:
        return _decode(content, name, background, draft)
    except (PictureError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(name, _too_large()) from error
    except Image.UnidentifiedImageError as error:
        raise PictureError(name, f"not a picture of an allowed format ({', '.join(FORMATS)}).") from error
    except Exception as error:  # damaged files make the decoders raise nearly anything
        said = str(error).strip().rstrip(".") or type(error).__name__
        state = "truncated" if "truncated" in said.lower() else "damaged"
        raise PictureError(name, f"the picture is {state} ({said}).") from error


def as_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """A picture of any mode as 8-bit RGB, by the rules at the top of this module. RGB comes back as it is.

    Raises:
        PictureError: a mode that no picture file of the allowed formats has, such as 32-bit float.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_as_rgb(image, background)
    if image.has_transparency_data:
        rgba = _with_scaled_key(image).convert("RGBA")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return canvas
    if image.mode in ("RGB", "1", "L", "P", "CMYK", "YCbCr", "RGBX", "LAB", "HSV"):
        return image if image.mode == "RGB" else image.convert("RGB")
    raise PictureError("picture", f"pixels of mode {image.mode} are not supported. Convert it to 8-bit RGB.")


def upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation and takes it out of the picture's record, so that a second call changes nothing."""
    image.load()  # a PNG's record may come after its pixels
    turn = _TURNS.get(_orientation(image))
    turned = image.transpose(turn) if turn is not None else image
    if "exif" in turned.info:
        turned = turned.copy() if turned is image else turned
        turned.info.pop("exif")
    return turned


def picture_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture file.

    Raises:
        PictureError: it cannot be read, or is larger than any picture.
    """
    name, path = os.fspath(path), Path(path)
    try:
        if path.is_dir():
            raise PictureError(name, "is a folder, not a picture.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PictureError(name, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB; no picture is.")
        return path.read_bytes()
    except OSError as error:
        raise PictureError(name, f"cannot be read ({error.strerror or error}).") from error


def _too_large() -> str:
    return (f"more pixels than a picture may have ({Image.MAX_IMAGE_PIXELS:,}): a decompression bomb, or a picture to "
            "make smaller first.")


def _decode(content: bytes, name: str, background: tuple[int, int, int],
            draft: tuple[int, int] | None) -> tuple[Image.Image, str, tuple[str, ...]]:
    image = _open(content, name)
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise PictureError(name, _too_large())
    orientation = _orientation(image)  # before the pixels: a draft needs to know
    if draft is not None and image.format in ("JPEG", "MPO"):
        height, width = draft if orientation < 5 else draft[::-1]
        image.draft(None, (2 * width, 2 * height))
    frames = getattr(image, "n_frames", 1)
    image.load()
    image.info["png_bits"] = content[24] if image.format == "PNG" else 8  # a channel, by the file's header
    turn = _TURNS.get(_orientation(image))  # again: a PNG's record may come after its pixels
    picture = as_rgb(image, background)
    picture = picture.transpose(turn) if turn is not None else picture
    notes = _notes(image, frames)
    picture = picture.copy() if picture is image else picture
    picture.info.clear()
    return picture, _NAMES[image.format or ""], notes


def _open(content: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF"))
    except Image.UnidentifiedImageError:
        try:
            other = Image.open(io.BytesIO(content)).format  # only to name it
        except Exception:
            other = None
        if other is None:
            raise
        raise PictureError(name, f"holds {other}, which is not an allowed format ({', '.join(FORMATS)}). "
                                 "Save it as one of these.") from None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 where there is none or the record is damaged."""
    record = image.info.get("exif")
    if not record:
        return 1
    exif = Image.Exif()
    try:
        exif.load(record)
        value = exif.get(_ORIENTATION_TAG, 1)
    except Exception:  # a damaged record: viewers and phones show the picture as stored
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _notes(image: Image.Image, frames: int) -> tuple[str, ...]:
    """What a person who prepared this picture may want to know, from a loaded picture."""
    notes = []
    deep = image.info["png_bits"] == 16
    if deep:
        notes.append("16-bit, scaled to 8")
    if frames > 1:
        notes.append(f"{frames} frames, the first is used")
    if image.mode == "CMYK":
        notes.append("CMYK, converted to RGB")
    elif image.mode in ("1", "L") or image.mode.startswith("I"):
        notes.append("grey, the three channels are equal")
    if image.has_transparency_data:
        exact = not (deep and image.mode == "RGB")
        notes.append("transparent, put on the background" if exact
                     else "16-bit with a transparent colour, which is left opaque")
    orientation = _orientation(image)
    if orientation != 1:
        notes.append(f"EXIF orientation {orientation} applied")
    return tuple(notes)


def _with_scaled_key(image: Image.Image) -> Image.Image:
    """Brings a PNG's transparent colour to the 8-bit pixels' scale, where Pillow leaves it at the file's.

    Grey of 2 or 4 bits: the key is scaled as the pixels were. RGB of 16 bits: the low bytes that would tell pixels apart
    are gone, so the picture is taken as opaque.
    """
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and image.info.get("png_bits", 8) == 16:
        image = image.copy()
        del image.info["transparency"]
    elif image.mode == "L" and isinstance(key, int) and (bits := image.info.get("png_bits", 8)) < 8:
        image = image.copy()
        image.info["transparency"] = key * 255 // ((1 << bits) - 1)
    return image


def _grey16_as_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    grey = (values >> 8).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    key = image.info.get("transparency")
    if isinstance(key, int):
        pixels[values == key] = background
    return Image.fromarray(pixels)
