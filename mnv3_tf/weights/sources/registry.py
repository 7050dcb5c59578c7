"""Published weights as data: where they are, how to check them, what they were measured at; and their download.

The table is `registry.json`. Its hashes are those that the publishers give: keras.applications's own MD5, or the first eight
digits of the SHA-256 that torchvision and timm put into the file's name. Where none is given, the first download is trusted and
its SHA-256 kept beside it, so that a later change is noticed.
"""

import difflib
import functools
import os
from dataclasses import dataclass
from pathlib import Path

from mnv3_tf.downloads import download, wrong_hash
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import cache_path, read_bytes, read_json, sha256, write_text
from mnv3_tf.network.spec import DIALECTS, find_spec
from mnv3_tf.progress import Progress, Silent
from mnv3_tf.weights.formats.read import sniff


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
    table = read_json(Path(__file__).with_name("registry.json"))
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
        home = os.path.expanduser("~")
        own = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")  # as Keras has it
        return Path(os.path.expanduser(os.environ.get("KERAS_HOME") or own)) / "models" / entry.file_name
    return cache_path("weights", entry.file_name)


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
            raise InputError(f"{path}: {problem}. It was left as it is; move it elsewhere to download {entry.url} again.")
    else:
        progress.say(f"Downloading {entry.url} to {path}.")
        try:
            download([entry.url], path, functools.partial(_problem, entry))
        except (KitError, OSError) as error:
            known = f" (its {_HASHES[entry.hash_algorithm]} {entry.hash})" if entry.hash_algorithm else ""
            raise KitError(f"{error}. To do without a download, put the file{known} from {entry.url} at {path} and start again."
                           ) from error
    record = _record(path)
    if entry.hash is None and not record.is_file():
        digest = sha256(path)
        write_text(record, f"{digest}  {path.name}\n")
        progress.say(f"{path.name}: no hash is published, so this file is trusted as it came; its SHA-256 {digest} is noted in "
                     f"{record.name}, and another file will be refused from now on.")
    return path


_HASHES = {"md5": "MD5 is", "sha256": "SHA-256 is", "sha256-prefix": "SHA-256 begins with"}


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _problem(entry: PublishedWeights, path: Path) -> str:
    """What speaks against a file, or nothing."""
    record = _record(cached_path(entry))
    digits, says = entry.hash or "", f"{entry.hash} is published"
    if entry.hash_algorithm == "sha256-prefix":
        says += " as its beginning"
    elif entry.hash is None and record.is_file():
        digits = read_bytes(record).decode("ascii", "replace").partition(" ")[0].strip() or "nothing"
        says = f"{digits} was noted at the first download ({record})"
    wrong = wrong_hash(path, digits, says, (entry.hash_algorithm or "sha256").partition("-")[0])
    if wrong or not digits:
        wrong = "; ".join(filter(None, (_no_weights(path), wrong)))
    return wrong and f"not the published file {entry.name}: {wrong}"


def _no_weights(path: Path) -> str:
    """What a file is instead of weights, such as the web page of a hotel's network; "" where it may be weights."""
    try:
        sniff(path, read_bytes(path))
    except InputError as error:
        return str(error).removeprefix(f"{path}: ").partition(". Allowed")[0]
    return ""
