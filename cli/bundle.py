"""`mnv3 bundle`."""

from typing import Any

import click

from mnv3_tf.cli.options import json_option, print_json, tell
from mnv3_tf.errors import CheckFailed
from mnv3_tf.progress import Terminal
from mnv3_tf.text import counted


@click.command()
@click.argument("file", required=False, metavar="[FILE.tflite]", type=click.Path())
@click.option("--out", type=click.Path(), metavar="DIR", help="Folder to write.")
@click.option("--check", "checked", type=click.Path(), metavar="DIR", help="Check an existing bundle instead of making one.")
@click.option("--data", type=click.Path(), metavar="PATH",
              help="Pictures for the goldens, and to measure what MediaPipe's own preprocessing changes.  "
                   "[default: generated patterns]")
@click.option("--goldens", type=click.IntRange(1, 100), default=6, show_default=True,
              help="Number of goldens: pictures with their exact input and output tensors.")
@click.option("--scores", is_flag=True, help="Output float32 probabilities instead of logits.")
@click.option("--client", type=click.Choice(["contract", "mediapipe"]), default="contract", show_default=True,
              help="Whose preprocessing the bundle asks for: the model's own, or MediaPipe's ImageClassifier's.")
@click.option("--app", type=click.Path(), metavar="DIR",
              help="Also copy the sample Android app to this folder, with the bundle in its assets.")
@click.option("--name", default="", help="Name of the model.  [default: the file's name]")
@click.option("--description", default="Image classifier", show_default=True, help="For metadata and model card.")
@click.option("--author", default="", help="For metadata and model card.")
@click.option("--license", default="", help="For metadata and model card.")
@click.option("--model-version", "version", default="", help="For metadata and model card.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@json_option
def bundle(file: str | None, out: str | None, checked: str | None, data: str | None, app: str | None, force: bool, as_json: bool,
           **options: Any) -> None:
    """Makes the folder that an Android app needs from a .tflite file, or checks one.

    It holds the model with TFLite metadata, labels.txt, preprocessing.json (how a picture becomes the input, and an output a
    score), model_card.md, pictures with their exact input and output bytes, and SHA-256 sums of all files. --check exits with 3
    if anything was changed, and names the file.
    """
    if checked is not None:
        if file or out:
            raise click.UsageError("--check DIR goes alone, without FILE.tflite and --out.")
        _check(checked, as_json)
        return
    if not file or not out:
        raise click.UsageError("Give FILE.tflite and --out DIR, or --check DIR.")
    from mnv3_tf.export.bundle import BundleOptions, copy_app, make_bundle

    made = make_bundle(file, out, data=data, options=BundleOptions(**options), force=force, progress=Terminal())
    if app:
        copy_app(made.folder, app)
    if as_json:
        print_json(made)
        return
    tell("Note", made.notes)
    click.echo(f"Bundle: {made.folder} ({made.size_bytes / 1e6:.2f} MB in all, {options['goldens']} goldens, "
               f"{counted(made.partitions, 'XNNPACK partition')}). Check it at any time: mnv3 bundle --check {made.folder}")
    if app:
        click.echo(f"App: {app} (open it in Android Studio; its README says what was checked)")


def _check(folder: str, as_json: bool) -> None:
    from mnv3_tf.export.bundle import check_bundle

    problems = check_bundle(folder)
    if as_json:
        print_json({"folder": folder, "passed": not problems, "problems": problems})
    elif not problems:
        click.echo(f"{folder}: no file was changed, and every golden gives its output bytes.")
    if problems:
        raise CheckFailed(f"{folder}: {'; '.join(problems)}.")
