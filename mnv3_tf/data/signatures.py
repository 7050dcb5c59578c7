"""What a file is, by its first bytes, where it is no picture that is read: each kind with its name and the remedy."""

import re

_CONVERT = "Convert it to JPEG or PNG."
_PHONE = "Convert it to JPEG (on an iPhone, Settings > Camera > Formats > Most Compatible takes JPEG)."
_RAW = "Export it as JPEG from the camera's software or a raw converter."
_UNPACK = "Unpack it into class folders."
_RECORDS = "Write the pictures it holds as files, into class folders."
_SHARDS = "Put shards into one folder with labels.txt, named for their splits (train-0000.tar, val-0000.tar)."
_FRAMES = "Take single frames out of it as JPEG or PNG."
_AGAIN = "Download it again."
# (pattern of the first bytes, name, remedy); the first that fits counts.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb".{4}ftyp(?:avif|avis)", "AVIF", _CONVERT),
    (rb".{4}ftyp(?:hei[cmxs]|hev[cmxs])", "HEIC", _PHONE),
    (rb".{4}ftyp(?:mif1|msf1).{0,40}?avif", "AVIF", _CONVERT),
    (rb".{4}ftyp(?:mif1|msf1)", "HEIC (HEIF)", _PHONE),
    (rb".{4}ftypcrx", "a camera's raw file (CR3)", _RAW),
    (rb".{4}ftyp", "a video (MP4, MOV)", _FRAMES),
    (rb"(?:II\*\0|MM\0\*).{4}CR", "a camera's raw file (CR2)", _RAW),
    (rb"IIR[OS]|MMOR", "a camera's raw file (ORF)", _RAW),
    (rb"IIU\0", "a camera's raw file (RW2)", _RAW),
    (rb"FUJIFILMCCD-RAW", "a camera's raw file (RAF)", _RAW),
    (rb"FOVb", "a camera's raw file (X3F)", _RAW),
    (rb"II[*+]\0|MM\0[*+]", "a TIFF of a kind that is not read (such as many bands, floating point or a rare compression)",
     "Save it as TIFF or PNG of 8 bits a channel, grey or RGB."),
    (rb"8BPS", "a Photoshop document (PSD)", _CONVERT),
    (rb"gimp xcf", "a GIMP document (XCF)", _CONVERT),
    (rb"%PDF", "a PDF document", _CONVERT),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript (EPS)", _CONVERT),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", _CONVERT),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000", _CONVERT),
    (rb"\x76\x2f\x31\x01", "OpenEXR", _CONVERT),
    (rb"#\?R", "Radiance HDR", _CONVERT),
    (rb"P[1-7f][\s#]", "a portable pixmap (PBM, PGM, PPM)", _CONVERT),
    (rb"qoif", "QOI", _CONVERT),
    (rb"DDS ", "a texture (DDS)", _CONVERT),
    (rb"SIMPLE  =", "FITS", _CONVERT),
    (rb".{128}DICM", "a medical picture (DICOM)", _CONVERT),
    (rb"RIFF.{4}AVI |\x1a\x45\xdf\xa3", "a video (AVI, MKV, WebM)", _FRAMES),
    (rb"\0\x05\x16[\0\x07]", "what macOS keeps beside a file (AppleDouble)", "Delete it."),
    (rb"\xd0\xcf\x11\xe0", "an Office document or Thumbs.db", "Delete it."),
    (rb"version https://git-lfs", "a pointer of Git LFS, and no picture", "Fetch the files with `git lfs pull`."),
    (rb"\s*(?:<\?xml.{0,1000}?)?(?:<!--.{0,1000}?)?(?:<!DOCTYPE svg.{0,500}?)?<svg", "a drawing (SVG)", _CONVERT),
    (rb"(?i)\s*(?:<!doctype html|<html|<head|<body)", "a web page, perhaps of a download that failed", _AGAIN),
    (rb"PK\x03\x04|PK\x05\x06|7z\xbc\xaf|Rar!|\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "an archive or a compressed file",
     _UNPACK),
    (rb".{257}ustar", "a tar archive, or a WebDataset shard", _SHARDS),
    (rb"PAR1", "a Parquet table", _RECORDS),
    (rb"ARROW1", "an Arrow table", _RECORDS),
    (rb".{16}\xde\xc0\xef\xbe|.{16}\xbe\xef\xc0\xde", "an LMDB database", _RECORDS),
    (rb"\x0a\x23\xd7\xce", "RecordIO shards of MXNet", _RECORDS),
    (rb"\x89HDF", "an HDF5 file", _RECORDS),
    (rb"\x93NUMPY", "a NumPy array", _RECORDS),
    (rb".{4}\0{4}.{4}\x0a", "a TFRecord shard", _SHARDS),  # the length of its first record, a checksum, a protocol buffer
    (rb"\0{64}", "nothing but zero bytes at its start", _AGAIN),
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL), name, remedy) for pattern, name, remedy in _KINDS)
HEAD_BYTES = 1024


def kind_of(head: bytes) -> tuple[str, str] | None:
    """What a file is that is no JPEG, PNG, WebP, BMP, GIF or ordinary TIFF.

    Args:
        head: its first :data:`HEAD_BYTES` bytes, or all.

    Returns:
        Its name ("HEIC", "a PDF document") and a sentence on what to do; None where the bytes are none of the known ones.
    """
    head = head[:HEAD_BYTES]
    return next(((name, remedy) for pattern, name, remedy in _COMPILED if pattern.match(head)), None)


def holds_many(kind: tuple[str, str]) -> bool:
    """Whether a kind of :func:`kind_of` is made to hold many pictures: an archive, records, a table."""
    return kind[1] in (_UNPACK, _RECORDS, _SHARDS)
