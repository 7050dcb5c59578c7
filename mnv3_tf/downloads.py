"""Downloads at a user's request, by a library: whole and checked, or not there at all."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mnv3_tf.errors import KitError
from mnv3_tf.files import check_writable

_SECONDS = 60


def download(urls: Sequence[str], target: Path, wrong: Callable[[Path], str], offline: str = "") -> Path:
    """Downloads a file from the first address that has it, and puts it at `target`.

    Args:
        urls: where it is.
        target: where it belongs; its folder is made.
        wrong: says what is wrong with a file that came, or nothing: "". It may raise, too.
        offline: what errors say to do without the internet.

    Raises:
        KitError: no address has it, or a connection ended early; nothing is kept then.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    check_writable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    for url in urls:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-", ignore_cleanup_errors=True) as folder:
            arrived = Path(folder) / target.name
            try:
                pooch.HTTPDownloader(progressbar=False, timeout=_SECONDS)(url, str(arrived), None)
            except (requests.RequestException, OSError, ValueError) as error:
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                problems.append(f"{url}: the download failed ({reason}){offline}")
                continue
            problem = wrong(arrived)
            if not problem:
                return arrived.replace(target)
            problems.append(f"{url}: {problem}. It was not kept")
    raise KitError("; ".join(problems))


def wrong_hash(path: Path, digits: str, says: str, algorithm: str = "sha256") -> str:
    """What is wrong with a file whose hash does not begin with these hexadecimal digits; else "".

    Args:
        path: the file.
        digits: all of its hash, or the first ones.
        says: who says so, as the end of a sentence.
        algorithm: "sha256" or "md5".
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    return "" if found.startswith(digits) else f"its {'MD5' if algorithm == 'md5' else 'SHA-256'} is {found}, and {says}"
