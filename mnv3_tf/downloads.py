"""Downloads at a user's request, by a library."""

from pathlib import Path

from mnv3_tf.errors import KitError

_SECONDS = 60


def download(url: str, target: Path) -> None:
    """Downloads an address to a file, all of it or with an error.

    Raises:
        KitError: it cannot be had, or the connection ended early; what came may be left in `target`.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.HTTPDownloader(progressbar=False, timeout=_SECONDS)(url, str(target), None)
    except (requests.RequestException, OSError, ValueError) as error:
        raise KitError(f"{url}: the download failed ({(str(error) or type(error).__name__).splitlines()[0][:200]})") from error
