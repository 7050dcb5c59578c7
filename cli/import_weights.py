"""`mnv3 import-weights`."""

from pathlib import Path
from typing import Any

import click

from mnv3_tf.cli.options import json_option, print_json, quiet_libraries
from mnv3_tf.progress import Terminal

# Named here too, so that `--help` need not load what knows them.
ORIGINS = ("keras", "torchvision", "timm", "paddle", "tflite", "tfjs")
NETWORKS = ("large", "small", "large_minimalistic", "small_minimalistic")


@click.command()
@click.argument("source", type=click.Path())
@click.option("--from", "origin", type=click.Choice(ORIGINS),
              help="The package that saved it; not needed for Keras's files and published weights.")
@click.option("--model", "name", type=click.Choice(NETWORKS), help="The network.  [default: found from the shapes]")
@click.option("--alpha", type=float, help="Width multiplier.  [default: found from the shapes]")
@click.option("--dialect", type=click.Choice(["keras", "torchvision", "timm", "timm_tf", "paddle"]),
              help="Needed for timm, whose tf_* networks (timm_tf) have the same tensors.")
@click.option("--model-name", metavar="NAME",
              help="The package's own name of the network, such as tf_mobilenetv3_large_100, instead of these.")
@click.option("--part", metavar="KEY", help="Which dict of tensors to take from a checkpoint with several, such as state_dict.")
@click.option("--size", metavar="PIXELS|HEIGHTxWIDTH",
              help="Input size.  [default: that of published weights, .tflite or TensorFlow.js models; else 224]")
@click.option("--labels", type=click.Path(), metavar="FILE", help="Class names, one on each line, in the order of the outputs.")
@click.option("--mean", type=float, nargs=3, help="Mean of each channel as a share of 255, such as 0.485 0.456 0.406.")
@click.option("--std", type=float, nargs=3,
              help="Standard deviation of each channel as a share of 255, such as 0.229 0.224 0.225.")
@click.option("--dropout", type=float, default=0.2, show_default=True,
              help="Dropout before the classifier in training, where a whole Keras model has none of its own; PaddleClas scales "
                   "its outputs by the rest.")
@click.option("--table", type=click.Path(), metavar="blocks.yaml", help="Block table of your own network.")
@click.option("--out", required=True, type=click.Path(), metavar="MODEL.keras|RUN", help="File, or run folder, to write.")
@click.option("-o", "--override", "overrides", multiple=True, metavar="KEY=VALUE",
              help="For a run folder: how pictures were prepared, such as data.resize=crop; may be given more than once.")
@json_option
def import_weights(source: str, origin: str | None, size: str | None, labels: str | None, out: str, overrides: tuple[str, ...],
                   as_json: bool, **options: Any) -> None:
    """Writes the weights in SOURCE as a Keras model that this kit trains, quantizes and converts.

    A whole Keras model (.keras, or .h5 of model.save) needs no more than --labels: any functional network of convolutions,
    BatchNormalization, ReLU, hard-swish, squeeze-and-excite, additions, a pooling and Dense layers is taken over as it is.

    SOURCE is a file that the package saved (.pth, .safetensors, .pdparams, .h5, .weights.h5, .keras, .tflite, or the model.json
    of a TensorFlow.js graph model), or the name of published weights, such as torchvision/mobilenet_v3_small.IMAGENET1K_V1.

    The model takes RGB pixels 0..255 and gives logits (features, if the source has no classifier). Its card is written beside
    it, and so are labels and preprocessing contract if they are known. If --out has no ending, it is a run folder like those of
    `mnv3 train`, which predict, quantize and convert take.
    """
    quiet_libraries()
    from mnv3_tf.data import read_labels
    from mnv3_tf.weights.saving import check_out, save

    check_out(out, overrides, run=Path(out).suffix == "")
    arguments = {**options, "input_size": _pixels(size), "labels": read_labels(labels) if labels else None}
    imported = _import(source, origin, arguments)
    save(imported, out, overrides)
    facts = imported.report
    if as_json:
        print_json({**facts, "out": out})
        return
    for note in imported.notes:
        click.echo(f"Note: {note}.")
    height, width, _ = facts["input"]
    settings = imported.settings
    what = f"the network of {settings.block_table}" if settings.block_table else settings.name
    what = "a network of its own" if what == "imported" else f"{what} at alpha {settings.alpha:g}, dialect {settings.dialect}"
    head = f"{imported.classes} classes" if imported.include_top else "without a classifier"
    click.echo(f"Imported: {out} ({what}, {head}, input {height}x{width}, {len(imported.tensors)} tensors).")
    if imported.left_out:
        click.echo(f"Left out, because nothing depends on them: {', '.join(imported.left_out[:5])}"
                   f"{f' and {len(imported.left_out) - 5} more' if len(imported.left_out) > 5 else ''}.")


def _import(source: str, origin: str | None, arguments: dict[str, Any]) -> Any:
    if origin not in ("tflite", "tfjs"):
        from mnv3_tf.weights.importing import import_weights as run_import

        return run_import(source, origin, **arguments, progress=Terminal())
    from mnv3_tf.errors import InputError
    from mnv3_tf.weights.graphs.importing import import_foreign

    for key, option in (("model_name", "--model-name"), ("part", "--part")):
        value = arguments.pop(key)
        if value:
            raise InputError(f"{option} {value}: is for weights that are found by their names; those of a {origin} file "
                             "are found by their order. Leave it out.")
    return import_foreign(source, origin, **arguments)


def _pixels(size: str | None) -> int | tuple[int, int] | None:
    """``224`` or ``160x128`` (height x width)."""
    from mnv3_tf.errors import InputError

    if size is None:
        return None
    sides = size.split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise InputError(f"--size {size}: one side in pixels, or height x width, is needed, such as 224 or 160x128.")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
