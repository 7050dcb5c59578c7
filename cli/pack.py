"""`mnv3 pack`."""

from pathlib import Path

import click

from mnv3_tf.progress import Terminal
from mnv3_tf.text import counted


@click.command()
@click.argument("data", type=click.Path())
@click.option("--out", required=True, type=click.Path(), metavar="SHARDS", help="Folder for the shards.")
@click.option("--side", type=click.IntRange(min=16), metavar="PIXELS",
              help="Shrink pictures whose shorter side is longer, and write them as JPEG.  [default: bytes as they are]")
def pack(data: str, out: str, side: int | None) -> None:
    """Packs labelled pictures into tar shards that every command takes as --data (WebDataset's format).

    Give the same command again to go on with packing that was stopped. A picture that cannot be read is named and left out.
    """
    from mnv3_tf.data import open_dataset
    from mnv3_tf.data.pack import pack as run_packing

    progress = Terminal()
    dataset = open_dataset(data, progress=progress)
    for note in dataset.notes:
        progress.say(note)
    packed = run_packing(dataset, Path(out), side=side, progress=progress)
    for line in packed.broken:
        click.echo(f"Left out: {line}", err=True)
    click.echo(f"Packed: {out}, {counted(packed.pictures - len(packed.broken), 'picture')} in {counted(packed.shards, 'shard')}. "
               f"Next: mnv3 train --data {out} --out run")
