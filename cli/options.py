"""Options and output that several subcommands share."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``-c config.yaml`` and ``-o section.key=value``."""
    command = click.option("-o", "--override", "overrides", multiple=True, metavar="KEY=VALUE",
                           help="Change one setting, such as train.epochs=40; may be given more than once.")(command)
    return click.option("-c", "--config", "config_path", type=click.Path(dir_okay=False),
                        help="YAML file with settings, or mnv3:imagenet-large or mnv3:imagenet-small.")(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")(command)


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the required ``--data``."""
    return click.option("--data", required=True, type=click.Path(), metavar="PATH",
                        help="Folder of class folders, train/, val/, test/; or with train_list.txt, train.csv, shards.")(command)


def new_table(*headings: str, right: int = 0, **style: Any) -> "Table":
    """An empty table whose last columns, `right` of them, are aligned to the right; `style` is rich's."""
    from rich.table import Column, Table

    columns = (Column(heading, justify="right" if number >= len(headings) - right else "left")
               for number, heading in enumerate(headings))
    return Table(*columns, title_justify="left", **style)


def show(what: "str | Table", style: str | None = None, *, width: int | None = None) -> None:
    """Prints a table or a line. Where standard output is no terminal, a table is `width` columns wide, and a line whole."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if width is not None and not console.is_terminal:
        console.width = width
    console.print(what, style=style, soft_wrap=isinstance(what, str) and not console.is_terminal)


def tell(word: str, lines: Iterable[str]) -> None:
    """Prints lines such as ``Warning: ...`` on standard error."""
    for line in lines:
        click.echo(f"{word}: {line}.", err=True)


def print_json(value: Any) -> None:
    """Prints a JSON document of anything that :func:`mnv3_tf.files.plain` takes."""
    from mnv3_tf.files import json_text

    text = json_text(value)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # the same document in ASCII
        import json

        text = json.dumps(json.loads(text), indent=2)
    click.echo(text)


def quiet_libraries() -> None:
    """Keeps TensorFlow's start-up messages off the terminal. Call before anything imports it.

    Before its logging is set up, TensorFlow writes to standard error whatever the log level; so it is imported here, with
    that stream held back and everything but the known messages passed on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # a GPU's memory as it is needed, and not all of it
    import logging
    import warnings

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from mnv3_tf.tflite.runtime import captured_stderr

    with captured_stderr(is_noise=lambda line: any(part in line for part in _NOISE)), contextlib.suppress(ImportError):
        with hidden("matplotlib", "sklearn"):
            import tensorflow as tf
        tf.config.list_physical_devices()
        if os.environ.get("KERAS_BACKEND") == "jax":  # which is to have the GPUs for itself
            tf.config.set_visible_devices([], "GPU")
        tf.constant(0)


@contextlib.contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Not to be imported within: Keras imports these, where they are installed, for what the kit does not use, which takes a
    third of TensorFlow's start-up."""
    absent = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for package in absent:
            del sys.modules[package]


def quiet_libraries_for(*models: str | None) -> None:
    """:func:`quiet_libraries`, but only where Keras or TensorFlow opens one of the models: a run folder or a ``.keras`` file.

    A ``.tflite`` file needs neither, and what is missing or of another kind is refused without them.
    """
    from mnv3_tf.artefacts.open import open_artefact
    from mnv3_tf.errors import InputError

    for model in filter(None, models):
        with contextlib.suppress(InputError):
            if open_artefact(model).form != "tflite":
                quiet_libraries()
                return


_NOISE = ("cuda", "oneDNN custom operations", "All log messages before absl", "cpu_feature_guard", "computation_placer",
          "rebuild TensorFlow with the appropriate compiler flags", "TF-TRT")
