"""Imported networks as files: a Keras model with its card, or a run as training writes it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_tf.config import Config, DataConfig, load_config
from mnv3_tf.data import write_labels
from mnv3_tf.errors import InputError
from mnv3_tf.files import sha256, write_json
from mnv3_tf.weights.importing import Imported

if TYPE_CHECKING:
    from mnv3_tf.artefacts.run_folder import RunFolder


def check_out(out: str | Path) -> Path:
    """The file to write, or InputError where its name does not end in `.keras`."""
    out = Path(out)
    if out.suffix != ".keras":
        raise InputError(f"--out {out}: the model is written as a .keras file. Give a name such as {out.stem or 'model'}.keras.")
    return out


def check_picture_settings(overrides: Sequence[str]) -> None:
    """Refuses overrides that are not of how pictures are prepared, or that no configuration takes.

    Raises:
        InputError: names the first of them.
    """
    for override in overrides:
        if not override.startswith("data.") or override.startswith("data.image_size"):
            raise InputError(f"-o {override}: only settings of the section data are taken here, such as data.resize=crop; the "
                             "network is that of the weights, its size is --size.")
    load_config(None, overrides)


def save_run(imported: Imported, folder: str | Path, overrides: Sequence[str] = ()) -> "RunFolder":
    """Writes a float run, as training does, that `quantize`, `evaluate`, `predict`, `convert` and `verify` take.

    Args:
        imported: a whole network, with class names.
        folder: to make.
        overrides: how pictures become its input, such as ``data.resize=crop``: on top of what `imported` knows of it, and
            needed where that is nothing. The size is the model's.

    Raises:
        InputError: the folder is taken, the network has no classifier or no class names, nobody says how pictures were prepared,
            or an override is none of that.
    """
    from mnv3_tf.artefacts.run_folder import RunFolder, contract_from
    from mnv3_tf.network.keras_io import save_keras

    run = RunFolder(Path(folder))
    run.refuse_if_used("Choose another --out.")
    check_picture_settings(overrides)
    if imported.classes is None:
        raise InputError(f"{imported.source}: has no classifier, so it is not a run yet. Write it to a .keras file, and train it "
                         "with -o model.weights=FILE.keras.")
    if not imported.labels:
        raise InputError(f"{imported.source}: the names of its {imported.classes} classes are not known. Give them with --labels "
                         "FILE, one a line in the order of the outputs.")
    if imported.preprocessing is None and not overrides:
        raise InputError(f"{imported.source}: it is not known how its pictures were prepared. Say it with -o, such as "
                         "-o data.resize=crop -o data.crop_fraction=0.875 -o data.interpolation=bicubic.")
    contract, (height, width) = imported.preprocessing, imported.model.input_shape[1:3]
    known = {} if contract is None else {"resize": contract.resize, "crop_fraction": contract.crop_fraction,
                                         "interpolation": contract.interpolation}
    data = DataConfig(image_size=(height, width), **known)  # type: ignore[arg-type]
    config = load_config(None, overrides, Config(model=imported.settings, data=data))
    if config.data.resize != "crop":  # what a crop was known to keep is of no meaning then
        cut = load_config(None, overrides).data.crop_fraction
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, crop_fraction=cut))
    prepared = contract_from(config)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_head(config, prepared, imported.labels)
    save_keras(imported.model, run.model)
    facts = imported.report
    run.write_card(kind="float run", config=config, classes=list(imported.labels), data={}, seeds={},
                   preprocessing=prepared.fingerprint(), notes=facts["notes"],
                   imported={"origin": imported.origin, "file": imported.source.name, "sha256": sha256(imported.source),
                             "mean": facts["mean"], "std": facts["std"], **imported.facts})
    return run


def save_imported(imported: Imported, out: str | Path) -> Path:
    """Writes ``X.keras``, and beside it ``X.card.json``, and ``X.labels.txt`` and ``X.preprocessing.json`` where those are known.

    What an earlier import left under these names is replaced, or removed where it is not known this time.

    Raises:
        InputError: `out` does not end in ``.keras``.
        KitError: the folder cannot be written to.
    """
    from mnv3_tf.artefacts.card import make_card
    from mnv3_tf.network.keras_io import save_keras

    out = check_out(out)
    card, labels, contract = (out.with_name(f"{out.stem}.{kind}") for kind in ("card.json", "labels.txt", "preprocessing.json"))
    save_keras(imported.model, out)
    if imported.labels:
        write_labels(labels, imported.labels)
    else:
        labels.unlink(missing_ok=True)
    if imported.preprocessing:
        imported.preprocessing.save(contract)
    else:
        contract.unlink(missing_ok=True)
    own = [file for file in (out, labels, contract) if file.exists()]
    facts = imported.report
    write_json(card, make_card(
        out.parent, own, kind="imported weights", classes=list(imported.labels) if imported.labels else None,
        class_count=imported.classes, include_top=imported.include_top, model=facts["model"], origin=imported.origin,
        input=facts["input"], mean=facts["mean"], std=facts["std"],
        preprocessing=imported.preprocessing.fingerprint() if imported.preprocessing else None,
        source={"file": imported.source.name, "sha256": sha256(imported.source)}, **imported.facts, notes=facts["notes"]))
    return out
