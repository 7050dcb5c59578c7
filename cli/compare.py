"""`mnv3 compare`."""

import click

from mnv3_tf.cli.options import json_option, print_json
from mnv3_tf.errors import GateError


@click.command()
@click.argument("base", type=click.Path())
@click.argument("new", type=click.Path())
@click.option("--threshold", type=click.FloatRange(min=1), default=1.05, show_default=True,
              help="Ratio above which a row that is slower is a regression.")
@json_option
def compare(base: str, new: str, threshold: float, as_json: bool) -> None:
    """Compares two result folders of `mnv3 benchmark --out`; exit code 3 if a row got slower, or fails and did not before.

    A row got slower if its ratio is above the threshold, and its 95% interval (if there is one) says so too. The two results
    were measured at different times, so heat and other work may differ between them.
    """
    from mnv3_tf.export.benchmark.compare import compare_results
    from mnv3_tf.export.benchmark.store import read_records

    changes = compare_results(read_records(base), read_records(new), threshold)
    if as_json:
        print_json({"threshold": threshold, "changes": [change.to_dict() for change in changes]})
    else:
        for change in changes:
            span = f" ({change.low:.2f} to {change.high:.2f})" if change.low is not None else ""
            ratio = f"{change.ratio:.2f}{span} " if change.ratio is not None else ""
            click.echo(f"{change.name}: {ratio}{change.verdict}")
            for line in change.differs:
                click.echo(f"  {line}")
    failed = [change.name for change in changes if change.regression]
    if failed:
        raise GateError(f"{len(failed)} regression{'s' * (len(failed) != 1)}: {'; '.join(failed)}.")
