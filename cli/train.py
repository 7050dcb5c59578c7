"""`mnv3 train`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnv3_tf.cli.options import Terminal, config_options, data_option, quiet_libraries

if TYPE_CHECKING:
    from mnv3_tf.config import Config


@click.command()
@data_option
@click.option("--out", required=True, type=click.Path(), metavar="RUN", help="Run folder to write.")
@config_options
@click.option("--resume", is_flag=True, help="Continue an interrupted run as if it had not been interrupted.")
def train(data: str, out: str, config_path: str | None, overrides: tuple[str, ...], resume: bool) -> None:
    """Trains a float network on labelled pictures.

    RUN gets model.keras (the best weights), labels.txt, preprocessing.json, config.yaml, metrics.json, log.csv,
    curves.png, TensorBoard events and the state that --resume needs. Ctrl-C leaves a run that can be resumed.
    """
    config = _settings(Path(out) / "config.yaml" if resume else None, config_path, overrides)
    from mnv3_tf.data import open_dataset

    dataset = open_dataset(data, validation_fraction=config.data.validation_fraction, seed=config.train.seed)
    quiet_libraries()
    from mnv3_tf.training.trainer import train as run_training

    run = run_training(dataset, config, out, resume=resume, progress=Terminal())
    click.echo(f"Trained: {run.path}. Next: mnv3 quantize {run.path} --data {data} --out {run.path}-int8")


def _settings(stored: Path | None, config_path: str | None, overrides: tuple[str, ...]) -> "Config":
    """The settings of a new run, or of one that goes on (`stored`), which does not read the weights that it started from."""
    from mnv3_tf.config import Config, ModelConfig, load_config
    from mnv3_tf.weights.starting import load_settings

    if stored is None or not stored.exists():
        return load_settings(config_path, overrides, before_opening=quiet_libraries)
    base = load_config(stored)
    if config_path:
        # What the weights are came before the file then, and does now.
        base = Config(model=base.model if base.model.weights else ModelConfig())
    return load_config(config_path, overrides, base)
