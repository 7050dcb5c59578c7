"""`mnv3 doctor`."""

import textwrap
from typing import Any

import click

from mnv3_tf.cli.options import json_option, print_json
from mnv3_tf.errors import CheckFailed

_TOPIC, _WIDTH = 12, 110


@click.command()
@click.option("--clear-cache", "clear", is_flag=True, help="Remove what this kit keeps in its cache, and nothing else there.")
@json_option
def doctor(clear: bool, as_json: bool) -> None:
    """Says what this machine has for the kit, and what that means; exit code 3 if `make demo` would not work.

    Versions beside those that were tested, accelerators, settings of Keras, adb and its devices, tools, caches, space. Put what
    it prints into a bug report.
    """
    from mnv3_tf.export.doctor import clear_cache, examine

    if clear:
        files, size = clear_cache()
        if as_json:
            print_json({"removed_files": files, "removed_bytes": size})
        else:
            click.echo(f"Removed from the cache: {files} files, {size / 1e6:.1f} MB.")
        return
    problems: list[str] = []
    facts: dict[str, Any] = {}
    for finding in examine():
        facts[finding.topic] = finding.facts
        problems += [finding.problem] if finding.problem else []
        if not as_json:
            for topic, text in ((finding.topic, finding.text), ("problem", finding.problem)):
                click.echo(textwrap.fill(text, _WIDTH, initial_indent=f"{topic:{_TOPIC}}", subsequent_indent=" " * _TOPIC,
                                         break_long_words=False, break_on_hyphens=False), nl=bool(text))
    if as_json:
        print_json({"works": not problems, "problems": problems, **facts})
    elif not problems:
        click.echo("`make demo` would work here.")
    if problems:
        raise CheckFailed(" ".join(problems))
