"""Downloads of known content: checked by SHA-256 and kept in the kit's cache."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mnv3_tf.downloads import download
from mnv3_tf.errors import KitError
from mnv3_tf.files import sha256


def fetch_checked(urls: Sequence[str], digest: str, folder: Path) -> Path:
    """A file of known content, from the first address that has it; kept under its hash.

    Raises:
        KitError: no address has it; nothing is kept then.
    """
    kept = folder / digest
    if kept.is_file() and sha256(kept) == digest:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    for url in urls:
        with tempfile.TemporaryDirectory(dir=folder) as store:
            target = Path(store) / "download"
            try:
                download(url, target)
            except KitError as error:
                problems.append(str(error))
                continue
            found = sha256(target)
            if found == digest:
                return target.replace(kept)
            problems.append(f"{url}: its SHA-256 is {found}, and {digest} is expected")
    raise KitError("; ".join(problems))
