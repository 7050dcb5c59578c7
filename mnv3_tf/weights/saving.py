"""Imported networks as files: a Keras model with its card, or a run as training writes it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mnv3_tf.artefacts.card import fingerprint, write_beside
from mnv3_tf.artefacts.run_folder import RunFolder, contract_from
from mnv3_tf.config import Config, DataConfig, load_config, read_settings
from mnv3_tf.errors import InputError
from mnv3_tf.weights.imported import Imported


def check_out(out: str | Path, overrides: Sequence[str] = (), *, run: bool = False) -> Path:
    """Refuses, before anything is read, a place that nothing can be written to, and settings that do not go with it.

    Args:
        out: a `.keras` file, or a run folder.
        overrides: for a run folder: how pictures were prepared.
        run: whether it is one.

    Raises:
        InputError: the name does not end in `.keras`, or the folder is taken; or names the first wrong setting.
    """
    out = Path(out)
    if not run and overrides:
        raise InputError(f"-o {overrides[0]}: goes with a run folder; {out} is a file. Give --out a name without an ending.")
    if not run and out.suffix != ".keras":
        raise InputError(f"--out {out}: the model is written as a .keras file. Give a name such as {out.stem or 'model'}.keras.")
    for override in overrides:
        if not override.startswith("data.") or override.startswith("data.image_size"):
            raise InputError(f"-o {override}: only settings of the section data are taken here, such as data.resize=crop; the "
                             "network is that of the weights, its size is --size.")
    read_settings(None, overrides)
    if run:
        RunFolder(out).refuse_if_used("Choose another --out.")
    return out


def save(imported: Imported, out: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Writes a `.keras` file (:func:`save_imported`), or, under a name without an ending, a run folder (:func:`save_run`)."""
    return save_imported(imported, out) if Path(out).suffix else save_run(imported, out, overrides).path


def save_run(imported: Imported, folder: str | Path, overrides: Sequence[str] = ()) -> RunFolder:
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
    from mnv3_tf.network.keras_io import save_keras

    run = RunFolder(check_out(folder, overrides, run=True))
    if imported.classes is None:
        raise InputError(f"{imported.source}: has no classifier, so it is not a run yet. Write it to a .keras file, and train it "
                         "with -o model.weights=FILE.keras.")
    missing = [] if imported.labels else [f"the names of its {imported.classes} classes are not known. Give them with --labels "
                                          "FILE, one a line in the order of the outputs"]
    if imported.preprocessing is None and not overrides:
        missing.append("it is not known how its pictures were prepared. Say it with -o, such as -o data.resize=crop "
                       "-o data.crop_fraction=0.875 -o data.interpolation=bicubic")
    if missing or not imported.labels:
        raise InputError("\n".join(f"{imported.source}: {line}." for line in missing))
    contract, (height, width) = imported.preprocessing, imported.model.input_shape[1:3]
    known = {} if contract is None else {"resize": contract.resize, "crop_fraction": contract.crop_fraction,
                                         "interpolation": contract.interpolation}
    data = DataConfig(image_size=(height, width), **known)  # type: ignore[arg-type]
    config = load_config(None, overrides, Config(model=imported.settings, data=data))
    if config.data.resize != "crop":  # what a crop was known to keep is of no meaning then
        cut = load_config(None, overrides).data.crop_fraction
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, crop_fraction=cut))
    prepared = contract_from(config)
    run.write_head(config, prepared, imported.labels)
    save_keras(imported.model, run.model)
    run.write_card(kind="float run", config=config, classes=imported.labels, data={}, seeds={},
                   preprocessing=prepared.fingerprint(), notes=imported.notes,
                   imported={"origin": imported.origin, **_source(imported), "mean": imported.mean,
                             "std": imported.std, **imported.facts})
    return run


def save_imported(imported: Imported, out: str | Path) -> Path:
    """Writes ``X.keras``, and beside it ``X.card.json``, and ``X.labels.txt`` and ``X.preprocessing.json`` where those are known.

    What an earlier import left under these names is replaced, or removed where it is not known this time.

    Raises:
        InputError: `out` does not end in ``.keras``.
        KitError: the folder cannot be written to.
    """
    from mnv3_tf.network.keras_io import save_keras

    out = check_out(out)
    save_keras(imported.model, out)
    write_beside(
        out, imported.labels, imported.preprocessing, kind="imported weights", classes=imported.labels or None,
        class_count=imported.classes, include_top=imported.include_top, model=imported.settings, origin=imported.origin,
        input=imported.model.input_shape[1:], mean=imported.mean, std=imported.std,
        preprocessing=imported.preprocessing.fingerprint() if imported.preprocessing else None,
        source=_source(imported), **imported.facts, notes=imported.notes)
    return out


def _source(imported: Imported) -> dict[str, str]:
    """For the card: the file that it came from, or the name of a model in memory."""
    return fingerprint(imported.source) if imported.source.is_file() else {"file": str(imported.source)}
