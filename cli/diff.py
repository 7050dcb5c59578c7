"""`mnv3 diff`."""

import click

from mnv3_tf.cli.options import json_option, print_json, quiet_libraries_for


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@json_option
def diff(a: str, b: str, as_json: bool) -> None:
    """Lists what differs between A and B: run folders, .keras or .tflite files, in any combination.

    The exit code is 0 whether or not they differ.
    """
    if not a.endswith(".tflite") and not b.endswith(".tflite"):  # only then are networks opened
        quiet_libraries_for(a, b)
    from mnv3_tf.export.diff.compare import compare

    found = compare(a, b)
    if as_json:
        print_json(found)
        return
    click.echo("\n".join(found.lines()))
