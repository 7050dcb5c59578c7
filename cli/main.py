"""The `mnv3` command: one file per subcommand, loaded when it is asked for."""

import errno
import gc
import importlib
import io
import os
import sys
from typing import Any

import click

# Subcommand -> its one-line help. The modules are imported late, so that `mnv3 --help` does not wait for them.
COMMANDS = {
    "train": "Train a network on pictures in folders.",
    "pack": "Pack pictures of any layout into a few large files (WebDataset shards).",
    "evaluate": "Score a run, a .keras or a .tflite file on labelled pictures.",
    "predict": "Classify pictures.",
    "import-weights": "Import weights of keras.applications, torchvision, timm, PaddleClas, a .tflite file or TensorFlow.js.",
    "quantize": "Quantize a trained run to int8 (QAT or PTQ).",
    "sensitivity": "Find the blocks that lose accuracy in 8 bits, and keep as few as possible in float.",
    "convert": "Convert a run or a .keras file to .tflite.",
    "verify": "Check that Keras and TFLite give the same answers, or say which step broke them.",
    "inspect": "Show what is in a .tflite file, what XNNPACK does not run, and why.",
    "diff": "List what differs between two runs or files.",
    "benchmark": "Measure the latency of .tflite files.",
    "report": "Draw benchmark results: table, CSV and HTML page.",
    "compare": "Compare two sets of benchmark results; exit code 3 on a regression.",
    "bundle": "Make or check the folder that an Android app needs.",
    "summary": "Show a model's layers, parameters and MACs.",
    "doctor": "Say what this machine has for the kit and what that means; for bug reports.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        return getattr(importlib.import_module(f"mnv3_tf.cli.{name}"), name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from mnv3_tf.text import nearest

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}{nearest(args[0], COMMANDS)}. Commands: {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="mnv3-tf", prog_name="mnv3")
def cli() -> None:
    """MobileNetV3 on a phone: train, quantize, convert, check and measure."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 usage, 3 a check or limit failed, 4 no device that
    could be measured, 130 stopped."""
    gc.set_threshold(50_000, 20, 100)  # what TensorFlow makes stays: looking at it again and again takes a tenth of the time
    for stream in (sys.stdout, sys.stderr):  # a console that lacks a character, as those of Windows may, is no reason to stop
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    from mnv3_tf.errors import KitError

    try:
        code = cli.main(args=arguments, prog_name="mnv3", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KitError as error:
        # 130: the user stopped it, which is no error.
        click.echo(str(error) if error.exit_code == 130 else f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        sys.exit(_system_error(error))
    sys.exit(code if isinstance(code, int) else 0)


def _system_error(error: OSError) -> int:
    """Says what the system refused, where nothing nearer to it did; the exit code."""
    from mnv3_tf.files import remedy

    if not isinstance(error, BrokenPipeError):  # whoever read this has seen enough
        # What the kit writes is named where it is written; what is left is printed.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        what = error.filename or ("standard output" if full else "")
        click.echo(f"Error: {f'{what}: ' if what else ''}{error.strerror or error}. {remedy(error)}", err=True)
    try:
        sys.stdout.flush()
    except OSError:  # what is left to be printed would fail once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    main()
