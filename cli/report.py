"""`mnv3 report`."""

import click


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path())
@click.option("--out", required=True, type=click.Path(file_okay=False), metavar="DIR", help="Folder for the report.")
@click.option("--title", help="Of the page.  [default: Benchmark results]")
def report(results: tuple[str, ...], out: str, title: str | None) -> None:
    """Shows RESULTS, folders that `mnv3 benchmark --out` wrote: a page that opens from disk, a Markdown table, a CSV file.

    The same results give the same files.
    """
    from mnv3_tf.export.results.report import write_report

    page = write_report(results, out, title=title)
    click.echo(f"{page}, with report.md and report.csv beside it")
