"""`mnv3 compare`."""

import click

from mnv3_tf.cli.options import json_option, print_json, tell
from mnv3_tf.errors import CheckFailed
from mnv3_tf.text import counted


@click.command()
@click.argument("base", type=click.Path())
@click.argument("new", type=click.Path())
@click.option("--threshold", type=click.FloatRange(min=1), default=1.05, show_default=True,
              help="Ratio above which a row that is slower is a regression.")
@json_option
def compare(base: str, new: str, threshold: float, as_json: bool) -> None:
    """Compares two result folders of `mnv3 benchmark --out` (or logs of benchmark_model); exit code 3 if a row got slower, or
    fails and did not before.

    A row got slower if its ratio is above the threshold, and its 95% interval (if there is one) says so too. The two results
    were measured at different times, so heat and other work may differ between them.
    """
    from mnv3_tf.export.benchmark.compare import compare_results, in_words
    from mnv3_tf.export.benchmark.store import read_records

    notes: list[str] = []
    changes = compare_results(read_records(base, notes), read_records(new, notes), threshold)
    tell("Note", notes)
    if as_json:
        print_json({"threshold": threshold, "changes": [vars(change) for change in changes]})
    else:
        for change in changes:
            click.echo(f"{change.name}: {in_words(change)}")
            for line in change.differs:
                click.echo(f"  {line}")
    failed = [change.name for change in changes if change.regression]
    if failed:
        raise CheckFailed(f"{counted(len(failed), 'regression')}: {'; '.join(failed)}.")
