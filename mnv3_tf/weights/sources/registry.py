"""Published weights as data: where they are, how to check them, what they were measured at; and their download.

The table is `registry.json`. Its hashes are those that the publishers give: keras.applications's own MD5 (checked by Keras's
loader), or the first eight digits of the SHA-256 that torchvision and timm put into the file's name. Where none is given, the
first download is trusted and its SHA-256 kept beside it, so that a later change is noticed.
"""

import contextlib
import difflib
import functools
import hashlib
import io
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mnv3_tf.downloads import download
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import cache_folder, read_bytes, sha256, write_text
from mnv3_tf.network.spec import DIALECTS, find_spec
from mnv3_tf.progress import Progress, Silent
from mnv3_tf.weights.formats.read import sniff

_SECONDS = 60


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights that somebody published.

    Attributes:
        name: "dialect's publisher/their name of it".
        dialect, network, alpha: as :func:`mnv3_tf.network.spec.find_spec` and the builder take them.
        top: whether the classifier and the convolution before it are in the file.
        classes: of the classifier; None without one.
        default: whether it is the one to take among those of the same dialect, network and alpha.
        url: of the file.
        hash_algorithm: "md5", "sha256", "sha256-prefix" (its first digits) or None where the publisher gives none.
        hash: in hexadecimal.
        input_size: side of the square input, in pixels.
        resize: the picture's shorter side before the central square is cut out, in pixels.
        interpolation: "bilinear" or "bicubic".
        mean, std: of the input's channels, as shares of 255; they can differ from the dialect's.
        top1: published accuracy on ImageNet's validation pictures, in percent; None where none was found.
        accuracy_source, licence, source_page, note: for people.
    """

    name: str
    dialect: str
    network: str
    alpha: float
    top: bool
    classes: int | None
    default: bool
    url: str
    hash_algorithm: str | None
    hash: str | None
    input_size: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    top1: float | None
    accuracy_source: str | None
    licence: str
    source_page: str
    note: str | None

    @property
    def file_name(self) -> str:
        """How the file is called in the cache: as its address ends, or after the weights where that says nothing."""
        last = self.url.rpartition("/")[2]
        return f"{self.name.rpartition('/')[2]}.safetensors" if last == "model.safetensors" else last


@functools.cache
def published() -> tuple[PublishedWeights, ...]:
    """All of the table."""
    table = json.loads(Path(__file__).with_name("registry.json").read_text(encoding="utf-8"))
    return tuple(PublishedWeights(**{**row, "mean": tuple(row["mean"]), "std": tuple(row["std"])}) for row in table["weights"])


def find_published(name: str) -> PublishedWeights:
    """The weights of that name; the publisher may be left out where the rest is enough.

    Raises:
        InputError: there are none; the message gives the nearest names.
    """
    found = [entry for entry in published() if name in (entry.name, entry.name.partition("/")[2])]
    if len(found) == 1:
        return found[0]
    names = [entry.name for entry in published()]
    bare = {entry.partition("/")[2]: entry for entry in names}
    close = [bare.get(match, match) for match in difflib.get_close_matches(name, [*names, *bare], n=4, cutoff=0.5)]
    some = list(dict.fromkeys(close)) or names[:4]
    raise InputError(f"{name}: no published weights of that name. {'The nearest' if close else 'Some'}: {', '.join(some)}.")


def available_alphas(network: str, dialect: str = "keras", top: bool = True) -> tuple[float, ...]:
    """The width multipliers for which there are ImageNet weights (1000 classes, or without a classifier), ascending."""
    return tuple(sorted({entry.alpha for entry in _matching(network, dialect, top)}))


def _matching(network: str, dialect: str, top: bool) -> list[PublishedWeights]:
    return [entry for entry in published() if (entry.network, entry.dialect, entry.top) == (network, dialect, top)
            and entry.classes in (1000, None)]


def imagenet_for(network: str, alpha: float, dialect: str = "keras", top: bool = True) -> PublishedWeights:
    """The weights to start from, known before anything is downloaded.

    Args:
        network: "large", "small", "large_minimalistic" or "small_minimalistic".
        alpha: width multiplier.
        dialect: see :data:`mnv3_tf.network.spec.DIALECTS`.
        top: with the classifier. For another number of classes the file with it serves as well, as its other layers are a
            superset.

    Raises:
        InputError: there are none; the message lists the alphas that there are, and other dialects that have this one.
    """
    find_spec(network, dialect)
    matching = _matching(network, dialect, top)
    exact = sorted((entry for entry in matching if entry.alpha == alpha), key=lambda entry: not entry.default)
    if exact:
        return exact[0]
    what = f"ImageNet weights of {network} in the dialect {dialect}" + ("" if top else " without the classifier")
    elsewhere = [name for name in DIALECTS if alpha in available_alphas(network, name, top)]
    also = f" With model.dialect set to {' or '.join(elsewhere)} there are." if elsewhere else ""
    if not matching:
        raise InputError(f"There are no {what}.{also} Train from random weights, or give a file.")
    raise InputError(f"There are no {what} for alpha {alpha:g}. Allowed alphas: "
                     f"{', '.join(f'{value:g}' for value in available_alphas(network, dialect, top))}.{also} "
                     "Set model.alpha to one of them, or train from random weights.")


def cached_path(entry: PublishedWeights) -> Path:
    """Where the file is kept, and where to put it by hand: Keras's own folder for its files, else the kit's cache."""
    if entry.dialect == "keras":
        home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
        return Path(home).expanduser() / "models" / entry.file_name
    return cache_folder() / "weights" / entry.file_name


def fetch(entry: PublishedWeights, progress: Progress | None = None) -> Path:
    """The file, from the cache or downloaded to it; whole and checked, or not there at all.

    Args:
        entry: what to get.
        progress: told of a download, and of a file that is trusted without a published hash.

    Raises:
        InputError: a file already lies in the cache and is not the published one; it is left there.
        KitError: the download failed or gave another file, which is not kept. The message says where to put the file by hand.
    """
    progress = progress or Silent()
    path = cached_path(entry)
    if path.is_file():
        problem = _problem(entry, path)
        if problem:
            raise InputError(f"{path}: not the published file {entry.name}: {problem}. It was left as it is; move it elsewhere "
                             f"to download {entry.url} again.")
        _trust(entry, path, path, progress)
        return path
    progress.say(f"Downloading {entry.url} to {path}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-", ignore_cleanup_errors=True) as folder:
            arrived = _load_by_keras(entry, folder) if entry.dialect == "keras" else _load(entry, Path(folder) / entry.file_name)
            problem = _problem(entry, arrived)
            if problem:
                raise KitError(f"{entry.url}: not the published file {entry.name}: {problem}. The download was not kept")
            _trust(entry, arrived, path, progress)
            os.replace(arrived, path)
    except (KitError, OSError) as error:
        known = f" (its {_HASHES[entry.hash_algorithm]} {entry.hash})" if entry.hash_algorithm else ""
        raise KitError(f"{error}. To do without a download, put the file{known} from {entry.url} at {path} and start again."
                       ) from error
    return path


_HASHES = {"md5": "MD5 is", "sha256": "SHA-256 is", "sha256-prefix": "SHA-256 begins with"}


def _load(entry: PublishedWeights, target: Path) -> Path:
    download(entry.url, target)
    return target


def _load_by_keras(entry: PublishedWeights, folder: str) -> Path:
    """Keras's own loader, which checks its hash; into a folder of its own, as it writes in place."""
    import keras

    with _patience(), contextlib.redirect_stdout(io.StringIO()):
        try:
            return Path(keras.utils.get_file(entry.file_name, entry.url, cache_dir=folder, cache_subdir="", file_hash=entry.hash))
        except Exception as error:  # Keras wraps every failure of a download in Exception itself
            arrived = Path(folder) / entry.file_name
            if arrived.is_file():  # it came whole and has another hash; the caller says which
                return arrived
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise KitError(f"{entry.url}: the download failed ({reason})") from error


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """A limit for how long a connection may stay silent, which Keras's loader does not set."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _problem(entry: PublishedWeights, path: Path) -> str | None:
    """What speaks against a file, or None."""
    if entry.hash_algorithm is None or entry.hash is None:
        record = _record(cached_path(entry))
        if record.is_file():
            kept, found = read_bytes(record).decode("ascii", "replace").split(" ")[0].strip(), sha256(path)
            return None if kept == found else f"its SHA-256 is {found}, and {kept} was noted at the first download ({record})"
        return _no_weights(path)
    found = sha256(path) if entry.hash_algorithm != "md5" else hashlib.md5(read_bytes(path), usedforsecurity=False).hexdigest()
    if found == entry.hash or (entry.hash_algorithm == "sha256-prefix" and found.startswith(entry.hash)):
        return None
    looks = f"{no_weights}; " if (no_weights := _no_weights(path)) else ""
    kind = "MD5" if entry.hash_algorithm == "md5" else "SHA-256"
    published_as = "is published as its beginning" if entry.hash_algorithm == "sha256-prefix" else "is published"
    return f"{looks}its {kind} is {found}; {entry.hash} {published_as}"


def _no_weights(path: Path) -> str | None:
    """What a file is instead of weights, such as the web page of a hotel's network; None where it may be weights."""
    try:
        sniff(path, read_bytes(path))
    except InputError as error:
        return str(error).removeprefix(f"{path}: ").partition(". Allowed")[0]
    return None


def _trust(entry: PublishedWeights, arrived: Path, path: Path, progress: Progress) -> None:
    """Notes the SHA-256 of a file for which none is published, and says so."""
    record = _record(path)
    if entry.hash_algorithm is None and not record.is_file():
        digest = sha256(arrived)
        write_text(record, f"{digest}  {path.name}\n")
        progress.say(f"{path.name}: no hash is published, so this file is trusted as it came; its SHA-256 {digest} is noted in "
                     f"{record.name}, and another file will be refused from now on.")
