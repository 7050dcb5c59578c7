"""`mnv3 report`."""

import click

from mnv3_tf.cli.options import tell


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path())
@click.option("--out", required=True, type=click.Path(file_okay=False), metavar="DIR", help="Folder to write.")
@click.option("--title", default="Latency", show_default=True, help="Title of the page.")
@click.option("--accuracy", multiple=True, metavar="FILE=TOP1",
              help="Accuracy of a file, from 0 to 1; may be given more than once.")
def report(results: tuple[str, ...], out: str, title: str, accuracy: tuple[str, ...]) -> None:
    """Draws RESULTS (folders that `mnv3 benchmark --out` wrote, or logs of benchmark_model): report.md, report.csv and an
    offline page, index.html."""
    from mnv3_tf.export.benchmark.report import accuracy_by_file, write_results_report
    from mnv3_tf.export.benchmark.store import read_records

    notes: list[str] = []
    records = [record for path in results for record in read_records(path, notes)]
    page = write_results_report(records, out, title, accuracy_by_file(accuracy))
    tell("Note", notes)
    click.echo(f"Report: {page}")
