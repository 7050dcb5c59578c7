"""The stations of the road in Python, each a function that takes paths or what the station before returned.

They are `mnv3_tf.train`, `quantize`, `convert` and `verify`; the commands of the same names call them. All settings and folders
are looked at before TensorFlow is imported, so that a mistake is said at once.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_tf.artefacts.run_folder import RunFolder, open_run
from mnv3_tf.config import Config, ModelConfig, Settings, as_overrides, load_config
from mnv3_tf.data import PictureDataset, open_dataset
from mnv3_tf.progress import Progress, shown
from mnv3_tf.training.processes import together
from mnv3_tf.weights.starting import load_settings

if TYPE_CHECKING:
    from mnv3_tf.export.convert.convert import Converted, Format, Io
    from mnv3_tf.export.verify import Verification
    from mnv3_tf.export.verify.run import Elsewhere
    from mnv3_tf.quantization.lowering import Lowering
    from mnv3_tf.quantization.quantize import Method
    from mnv3_tf.training.trackers import Tracker

PathLike = str | os.PathLike[str]


def train(data: PathLike | PictureDataset, out: PathLike, config: str | Path | Config | None = None, *, settings: Settings = (),
          resume: bool = False, before_tensorflow: Callable[[], None] = lambda: None,
          progress: Progress | bool | None = True, tracker: "Tracker | None" = None) -> RunFolder:
    """Trains a float network on labelled pictures.

    Args:
        data: a picture folder (:func:`mnv3_tf.open_dataset`).
        out: the run folder to make.
        config: a YAML file or a configuration; None: the defaults, or the settings of the run that goes on.
        settings: changes to it, such as ``{"train.epochs": 40}``.
        resume: go on with the run in `out`, exactly as if it had not been interrupted.
        before_tensorflow: called before TensorFlow or Keras is imported.
        progress: True: a bar in a terminal or notebook, lines elsewhere; None or False: silence; or an object of your own.
        tracker: an object of your own that is told of every epoch (:class:`mnv3_tf.training.trackers.Tracker`).

    Returns:
        The run; it can be given wherever a run folder can, and :attr:`RunFolder.metrics` are its scores.

    Raises:
        InputError, Interrupted: as :func:`mnv3_tf.training.trainer.train`.
    """
    with together(out, shown(progress), **{"--resume": resume}) as (place, shows):
        config = _training_config(config, settings, place / "config.yaml" if resume else None, before_tensorflow)
        dataset = data if isinstance(data, PictureDataset) else open_dataset(
            os.fspath(data), validation_fraction=config.data.validation_fraction, seed=config.train.seed,
            progress=shows)
        before_tensorflow()
        from mnv3_tf.training.trainer import train as run

        return run(dataset, config, place, resume=resume, progress=shows, tracker=tracker)


def quantize(run: PathLike, data: PathLike | PictureDataset, out: PathLike, config: str | Path | Config | None = None, *,
             settings: Settings = (), method: "Method" = "qat", smoke: bool = False,
             before_tensorflow: Callable[[], None] = lambda: None, progress: Progress | bool | None = True) -> RunFolder:
    """Makes the 8-bit form of a trained run.

    Args:
        run: a float run.
        data: a picture folder; any will do where no labels are learned from (`quantize.teacher_weight` 1, or "ptq").
        out: the run folder to make.
        config, settings: as for :func:`train`, on top of the run's own.
        method: "qat" fine-tunes, "ptq" stops after calibration.
        smoke: calibrate on anything, only to try the tools.
        before_tensorflow, progress: as for :func:`train`.

    Returns:
        The quantized run; :attr:`RunFolder.metrics` and :attr:`RunFolder.as_float` say how good it is.

    Raises:
        InputError, CheckFailed, Interrupted: as :func:`mnv3_tf.quantization.quantize.quantize`.
    """
    source = open_run(os.fspath(run))
    config = _changed(config, settings, source.config())
    dataset = data if isinstance(data, PictureDataset) else open_dataset(
        os.fspath(data), validation_fraction=config.data.validation_fraction, seed=config.train.seed,
        class_names=source.labels(), labels_needed=False, progress=shown(progress))
    before_tensorflow()
    from mnv3_tf.quantization.quantize import quantize as make

    return make(source.path, dataset, config, Path(out), method=method, smoke=smoke, progress=shown(progress))


def convert(model: PathLike, out: PathLike, *, format: "Format" = "int8", io: "Io | None" = None,
            lowering: "Lowering | None" = None) -> "Converted":
    """Writes a run or `.keras` file as a checked `.tflite` file.

    Args:
        model: a run folder or `.keras` file.
        out, format, io, lowering: as for :func:`mnv3_tf.export.convert.convert.convert`, which also says what is raised.

    Returns:
        What was written; it can be given wherever a file can.
    """
    from mnv3_tf.export.convert.convert import convert as write
    from mnv3_tf.export.convert.convert import open_source

    return write(open_source(os.fspath(model)), Path(out), format=format, io=io, lowering=lowering)


def verify(model: PathLike, data: PathLike, config: str | Path | Config | None = None, *, settings: Settings = (),
           against: PathLike | None = None, quantized: PathLike | None = None, split: str | None = None, threads: int = 2,
           elsewhere: "Mapping[str, Elsewhere] | None" = None, progress: Progress | bool | None = True) -> "Verification":
    """Compares a file or quantized run with its float model, stage by stage, on the same pictures.

    Args:
        model: a `.tflite` file or a quantized run.
        data: a picture folder; without labels, answers are compared and not accuracy.
        config, settings: limits (`verify.*`), on top of the float run's settings.
        against, quantized: the float run and the quantized run, where the cards do not lead to them.
        split, threads, elsewhere: as for :func:`mnv3_tf.export.verify.verify`, which also says what is raised.
        progress: as for :func:`train`.

    Returns:
        What was proved: :attr:`Verification.passed`, :meth:`Verification.verdict`, the stages and findings.
    """
    from mnv3_tf.export.verify import open_chain
    from mnv3_tf.export.verify import verify as prove

    chain = open_chain(os.fspath(model), against=against and os.fspath(against), quantized=quantized and os.fspath(quantized))
    limits = _changed(config, settings, chain.float_run.config()).verify
    return prove(chain, os.fspath(data), split=split, limits=limits, threads=threads, elsewhere=elsewhere,
                 progress=shown(progress))


def _changed(config: str | Path | Config | None, settings: Settings, base: Config) -> Config:
    """A configuration, or `base` changed by a file; then changed by settings."""
    given = isinstance(config, Config)
    return load_config(None if given else config, as_overrides(settings), config if given else base)  # type: ignore[arg-type]


def _training_config(config: str | Path | Config | None, settings: Settings, stored: Path | None,
                     before_opening: Callable[[], None]) -> Config:
    """The settings of a new run, or of one that goes on (`stored`), which does not read the weights that it started from."""
    if isinstance(config, Config):
        return _changed(config, settings, config)
    if stored is None or not stored.exists():
        return load_settings(config, as_overrides(settings), before_opening=before_opening)
    base = load_config(stored)
    if config:
        # What the weights are came before the file then, and does now.
        base = Config(model=base.model if base.model.weights else ModelConfig())
    return _changed(config, settings, base)
