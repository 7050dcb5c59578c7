"""Pictures: decoded by content, always 8-bit RGB, always upright, or refused in one clear line.

Every entry of the kit (training, evaluation, prediction, calibration, the scan before training) decodes here, so a file
gives the same pixels everywhere. The rules:

- The format is found in the bytes, never in the name: JPEG, PNG, WebP, BMP, GIF and TIFF.
- Of several frames or pages the first is used.
- 16-bit channels keep their high byte (0..65535 becomes 0..255), as Android's decoder does.
- CMYK and YCCK JPEG follow Adobe's inverted convention; R = (255-C)(255-K)/255, and so on.
- Transparent pixels are blended onto a background: (alpha * colour + (255-alpha) * background) / 255, rounded.
- Colours are sRGB: pixels with another colour profile are converted before they are blended (`mnv3_tf.data.colour`).
- The EXIF orientation (not XMP) is applied last.

Nothing here holds the interpreter lock for long or shares state, so threads may call it freely.
"""

import io
import os
import struct
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from PIL import (  # the plugins register themselves here, not in whichever thread comes first
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from mnv3_tf.data.colour import to_srgb
from mnv3_tf.data.sample_list import Member
from mnv3_tf.data.signatures import kind_of
from mnv3_tf.errors import InputError
from mnv3_tf.machine import memory_bytes

_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
FORMATS = ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF")
_NAMES = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "WEBP": "WebP", "BMP": "BMP", "DIB": "BMP", "GIF": "GIF", "TIFF": "TIFF"}
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WebP",
             ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".heic": "HEIC", ".avif": "AVIF"}
_ORIENTATION_TAG = 0x0112
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}
MAX_FILE_BYTES = 1 << 29
# No picture has more pixels than this; a decoded one needs up to 16 bytes for each while it is converted.
_MOST_PIXELS = 1 << 29
_BYTES_PER_PIXEL = 16
_HEAD_BYTES = 1 << 16
# Larger pictures are decoded one at a time, whatever the number of threads.
_LARGE = 1 << 25
_large = threading.Lock()
# Tags of TIFF; bit 0 of the kind: this page is a small one for a larger picture.
_TIFF_KIND, _TIFF_BITS, _TIFF_PIXELS, _TIFF_DNG = 254, 258, 262, 50706
WHITE = (255, 255, 255)

PictureSource = str | os.PathLike[str] | bytes | Member


def most_pixels() -> int:
    """Pixels that a picture may have: 537 million, or what this machine's memory holds."""
    return min(_MOST_PIXELS, memory_bytes() // _BYTES_PER_PIXEL)


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


class TooLargeError(PictureError):
    """A picture that this machine has not the memory for; another one may."""


def read_picture(source: PictureSource, *, background: tuple[int, int, int] = WHITE, draft: tuple[int, int] | None = None,
                 name: str | None = None) -> Image.Image:
    """Decodes a picture to 8-bit RGB, upright.

    Args:
        source: path of the file, its place in a shard, or its bytes.
        background: RGB, 0..255, that transparent pixels are blended onto.
        draft: (height, width) in pixels that are enough. A JPEG that is at least twice as large is then decoded at 1/2, 1/4
            or 1/8 of its size, never below `draft`. Faster, and not the same pixels: for training only, never for evaluation.
        name: what messages call the picture, where `source` is bytes.

    Returns:
        The picture, mode RGB, detached from the file.

    Raises:
        PictureError: the file is missing, empty, truncated, too large or no picture of an allowed format.
    """
    name = name or ("picture" if isinstance(source, bytes) else str(source))
    content = source if isinstance(source, bytes) else picture_bytes(source)
    return decode(content, name, background=background, draft=draft)[0]


def name_note(name: str, format_name: str) -> str | None:
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
    except PictureError:
        raise
    except MemoryError as error:
        raise TooLargeError(name, "there is not enough memory to decode it. Make it smaller.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # of Pillow's, for GIF and WebP
        raise PictureError(name, f"{error} Make it smaller, or save it as JPEG.") from error
    except Exception as error:  # damaged files make the decoders raise nearly anything
        said = str(error).strip().rstrip(".") or type(error).__name__
        state = "truncated" if "truncated" in said.lower() else "damaged"
        raise PictureError(name, f"the picture is {state} ({said}).") from error


def as_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """A picture of any mode as 8-bit sRGB, by the rules at the top of this module. RGB without a profile comes back as it is.

    Raises:
        PictureError: a mode that no picture file of the allowed formats has, such as 32-bit float.
    """
    convert = to_srgb(image).convert or (lambda picture: picture)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_as_rgb(image, background, convert)
    if image.has_transparency_data:
        rgba = _with_scaled_key(image).convert("RGBA")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(convert(rgba.convert("RGB")), mask=rgba.getchannel("A"))
        return canvas
    if image.mode == "CMYK" and to_srgb(image).convert:
        return convert(image)
    if image.mode in ("RGB", "1", "L", "P", "CMYK", "YCbCr", "RGBX", "LAB", "HSV"):
        return convert(image if image.mode == "RGB" else image.convert("RGB"))
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


def picture_bytes(path: str | os.PathLike[str] | Member) -> bytes:
    """The bytes of a picture file, or of a picture in a shard.

    Raises:
        PictureError: it cannot be read, or is larger than any picture.
    """
    name = str(path)
    try:
        # By few calls of the system: threads wait for Python's lock after each.
        file = os.open(path.path if isinstance(path, Member) else path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            length = path.length if isinstance(path, Member) else os.fstat(file).st_size
            if length > MAX_FILE_BYTES:
                raise PictureError(name, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB; no picture is.")
            if isinstance(path, Member):
                os.lseek(file, path.offset, os.SEEK_SET)
            elif not length:  # empty, or a pipe
                with os.fdopen(file, "rb", closefd=False) as pipe:
                    return pipe.read()
            content = os.read(file, length)
            while len(content) < length and (more := os.read(file, length - len(content))):
                content += more
        finally:
            os.close(file)
        if isinstance(path, Member) and len(content) < length:
            raise PictureError(name, "the shard ends before it. Copy the shard again.")
        return content
    except IsADirectoryError as error:
        raise PictureError(name, "is a folder, not a picture.") from error
    except OSError as error:
        raise PictureError(name, f"cannot be read ({error.strerror or error}).") from error


def format_of(path: Path | Member) -> str:
    """The format of a picture, one of `FORMATS`, by its beginning; its pixels are not decoded.

    Raises:
        PictureError: it cannot be read, or does not begin like a picture.
        OSError: it cannot be read.
    """
    name = str(path)
    with open(path.path if isinstance(path, Member) else path, "rb") as file:
        file.seek(path.offset if isinstance(path, Member) else 0)
        head = file.read(min(path.length, _HEAD_BYTES) if isinstance(path, Member) else _HEAD_BYTES)
    if not head:
        raise PictureError(name, "the file is empty (zero bytes).")
    try:
        return _NAMES[open_lazily(head, name).format or ""]
    except PictureError:  # what a camera writes in front of the pixels may be longer
        return _NAMES[open_lazily(picture_bytes(path), name).format or ""]


def _decode(content: bytes, name: str, background: tuple[int, int, int],
            draft: tuple[int, int] | None) -> tuple[Image.Image, str, tuple[str, ...]]:
    image = open_lazily(content, name)
    orientation = _orientation(image)  # before the pixels: a draft needs to know
    if draft is not None and image.format in ("JPEG", "MPO"):
        height, width = draft if orientation < 5 else draft[::-1]
        image.draft(None, (width, height))
    pixels = image.width * image.height
    if pixels > most_pixels():
        raise TooLargeError(name, f"{image.width} x {image.height} pixels are more than this machine's memory is good for "
                                  f"({most_pixels():,}): a decompression bomb, or a picture to make smaller first.")
    with _large if pixels > _LARGE else nullcontext():
        return _pixels(content, name, image, background)


def _pixels(content: bytes, name: str, image: ImageFile.ImageFile,
            background: tuple[int, int, int]) -> tuple[Image.Image, str, tuple[str, ...]]:
    frames = getattr(image, "n_frames", 1)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, name)
    turned = image.format == "TIFF" and image.getexif().get(_ORIENTATION_TAG, 1) != 1  # Pillow applies it while loading
    image.load()
    image.info["png_bits"] = content[24] if image.format == "PNG" else 8  # a channel, by the file's header
    turn = _TURNS.get(_orientation(image))  # again: a PNG's record may come after its pixels
    picture = as_rgb(image, background)
    picture = picture.transpose(turn) if turn is not None else picture
    notes = _notes(image, frames)
    picture = picture.copy() if picture is image and image.fp else picture  # one that holds its file no more can stay
    picture.info.clear()
    return picture, _NAMES[image.format or ""], (*notes, "TIFF orientation applied") if turned else notes


def _check_tiff(image: TiffImagePlugin.TiffImageFile, name: str) -> None:
    """Refuses a TIFF that only looks like a picture, and keeps what is needed to read its pixels."""
    tags = image.tag_v2
    if _TIFF_DNG in tags or (isinstance(kind := tags.get(_TIFF_KIND, 0), int) and kind & 1):
        raise PictureError(name, "holds a camera's raw file, whose first page is only a small preview. Export it as JPEG.")
    if image.mode in ("I", "F"):
        raise PictureError(name, "a TIFF of 32-bit, signed or floating-point numbers, which have no fixed black and white. "
                                 "Save it with 8 bits a channel.")
    if image.mode.startswith("I;16"):
        image.info["grey_bits"] = tags.get(_TIFF_BITS, (16,))[0]
        image.info["white_is_zero"] = tags.get(_TIFF_PIXELS) == 0


def open_lazily(content: bytes, name: str) -> ImageFile.ImageFile:
    """The picture, not decoded yet: by Pillow's plugins, without Pillow's limit of pixels.

    Raises:
        PictureError: it begins like no picture of an allowed format.
    """
    for format_name in ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF"):
        factory, accept = Image.OPEN[format_name]
        try:
            if accept is None or accept(content[:16]) is True:
                return factory(io.BytesIO(content), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    kind = kind_of(content)
    if kind is None:
        try:
            kind = str(Image.open(io.BytesIO(content)).format), "Save it as one of these."  # only to name it
        except Exception:
            raise PictureError(name, f"not a picture of an allowed format ({', '.join(FORMATS)}).") from None
    raise PictureError(name, f"holds {kind[0]}, which is not an allowed format ({', '.join(FORMATS)}). {kind[1]}")


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
    bits = image.info.get("grey_bits", image.info["png_bits"])
    deep = image.info["png_bits"] == 16
    if bits > 8:
        notes.append(f"{bits}-bit, scaled to 8")
    if frames > 1:
        notes.append(f"{frames} {'pages' if image.format == 'TIFF' else 'frames'}, the first is used")
    profile = to_srgb(image).note
    if profile:
        notes.append(profile)
    if image.mode == "CMYK" and not to_srgb(image).convert:
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


def _grey16_as_rgb(image: Image.Image, background: tuple[int, int, int],
                   convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    grey = (values >> (image.info.get("grey_bits", 16) - 8)).astype(np.uint8)
    if image.info.get("white_is_zero"):
        grey = 255 - grey
    pixels = np.array(convert(Image.fromarray(np.repeat(grey[..., None], 3, axis=-1))))
    key = image.info.get("transparency")
    if isinstance(key, int):
        pixels[values == key] = background
    return Image.fromarray(pixels)
