"""A dataset packed into tar shards, as WebDataset has them: NNNNNNNN.jpg and NNNNNNNN.cls for each picture."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mnv3_tf.child import in_child
from mnv3_tf.data.batches import ordered_parallel
from mnv3_tf.data.decode import PictureError, open_lazily, picture_bytes, read_picture
from mnv3_tf.data.labels import write_labels
from mnv3_tf.data.sample_list import PicturePath, Samples
from mnv3_tf.data.samples import PictureDataset
from mnv3_tf.data.scan import Contents, fingerprint_samples
from mnv3_tf.data.shards import PACKED
from mnv3_tf.errors import InputError
from mnv3_tf.files import atomic_path, plain, write_json
from mnv3_tf.machine import usable_cores
from mnv3_tf.progress import Progress

SHARD_PICTURES = 1000
_QUALITY = 95
_ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "DIB": "bmp", "GIF": "gif", "TIFF": "tif"}


@dataclass(frozen=True)
class Packed:
    """What was packed: pictures and shards, and why pictures were left out, of the shards that were written now."""

    pictures: int
    shards: int
    broken: tuple[str, ...]


def pack(dataset: PictureDataset, out: Path, *, side: int | None = None, progress: Progress) -> Packed:
    """Writes a dataset's pictures, split by split and in their order, into shards of 1000, each whole or not at all.

    Shards that are there already are kept, so that packing that was stopped goes on where it was.

    Args:
        dataset: any with labels.
        out: the folder for the shards.
        side: a picture whose shorter side has more pixels is shrunk to so many and written as JPEG of quality 95, upright and
            sRGB; None keeps the bytes of every picture as they are.
        progress: told of everything.

    Raises:
        InputError: `out` holds something else.
        KitError: a file cannot be written.
    """
    counts = {split: -(-len(samples) // SHARD_PICTURES) for split, samples in dataset.splits.items() if samples}
    facts = {"kind": "mnv3-tf shards", "shards": counts, "side": side, "of": {
        split: fingerprint_samples(samples, dataset.class_names, Contents()) for split, samples in dataset.splits.items()}}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            before = json.loads((out / PACKED).read_bytes())
        except (OSError, ValueError):
            before = None
        if before != plain(facts):
            raise InputError(f"{out}: already holds {'shards of other pictures or another --side' if before else 'files'}. "
                             "Choose another --out.")
        for left in out.glob(".*.tar"):  # of packing that was killed
            left.unlink()
    write_labels(out / "labels.txt", dataset.class_names)
    write_json(out / PACKED, facts)
    jobs = [(samples[start:start + SHARD_PICTURES], out / f"{split}-{start // SHARD_PICTURES:06d}.tar", start)
            for split, samples in dataset.splits.items() for start in range(0, len(samples), SHARD_PICTURES)]
    total, broken = sum(map(len, dataset.splits.values())), []
    with progress.task("Packing", total) as advance:
        done = 0
        for count, lines in ordered_parallel(lambda job: _packed(*job, side), jobs, usable_cores(), ahead=2 * usable_cores()):
            done += count
            broken += lines
            advance(done, "")
    return Packed(total, len(jobs), tuple(broken))


def _packed(samples: Samples, path: Path, first: int, side: int | None) -> tuple[int, list[str]]:
    """(pictures, why some were left out) of a shard, which a process of its own writes where it is not there."""
    if path.exists():
        return len(samples), []
    return len(samples), in_child(write_shard, Samples.of(iter(samples)), path, first, side)


def write_shard(samples: Samples, path: Path, first: int, side: int | None) -> list[str]:
    """Writes one shard; why pictures were left out of it."""
    broken = []
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as shard:
        for number, sample in enumerate(samples, first):
            try:
                content, ending = _packed_bytes(sample.path, side)
            except PictureError as error:
                broken.append(str(error))
                continue
            for name, part in ((f"{number:08d}.{ending}", content), (f"{number:08d}.cls", str(sample.label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                shard.addfile(member, io.BytesIO(part))
    return broken


def _packed_bytes(path: PicturePath, side: int | None) -> tuple[bytes, str]:
    content = picture_bytes(path)
    header = open_lazily(content, str(path))
    if side is None or min(header.size) <= side:
        return content, _ENDINGS[header.format or ""]
    picture = read_picture(content, draft=(2 * side, 2 * side), name=str(path))
    share = side / min(picture.size)
    size = tuple(max(side, round(length * share)) for length in picture.size)
    store = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(store, "JPEG", quality=_QUALITY)  # type: ignore[arg-type]
    return store.getvalue(), "jpg"
