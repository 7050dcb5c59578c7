"""`mnv3 verify`."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnv3_tf.cli.options import config_options, data_option, json_option, new_table, print_json, quiet_libraries, show
from mnv3_tf.files import check_writable
from mnv3_tf.progress import Terminal
from mnv3_tf.text import counted

if TYPE_CHECKING:
    from mnv3_tf.export.verify import Verification

# Layers, and findings of one kind, that are printed; the report has all.
_SHOWN, _FINDINGS = 8, 3


@click.command()
@click.argument("model", type=click.Path())
@data_option
@click.option("--against", type=click.Path(), metavar="RUN", help="The float run.  [default: found through the run cards]")
@click.option("--quantized", type=click.Path(), metavar="QRUN",
              help="The quantized run that a .tflite was converted from.  [default: found through its card]")
@click.option("--split", type=click.Choice(["test", "val", "train", "all"]),
              help="Part of the data.  [default: test if there is one, else val]")
@click.option("--report", type=click.Path(file_okay=False), metavar="DIR",
              help="Also write an offline HTML page (index.html) and all results as JSON to this folder.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Threads of the TFLite runtime.")
@click.option("--arm", is_flag=True, help="Also run the file on an emulated ARM processor (qemu-user).")
@click.option("--target", metavar="TARGET", help="Also run it on a device: adb, adb:SERIAL or ssh:HOST.")
@config_options
@json_option
def verify(model: str, data: str, against: str | None, quantized: str | None, split: str | None, report: str | None,
           threads: int, arm: bool, target: str | None, config_path: str | None, overrides: tuple[str, ...],
           as_json: bool) -> None:
    """Checks that MODEL (a .tflite file or a quantized run) gives the answers of its float model, or says which step broke them.

    The same pictures go through float Keras, the folded network, quantized Keras, TFLite on the reference kernels, and TFLite
    with XNNPACK. Every tensor of the file is compared with the float model's. Any folder of pictures will do; without labels,
    answers are compared and not accuracy. The limits are settings (verify.*). The exit code is 3 if a check fails.
    """
    quiet_libraries()
    from mnv3_tf.export.road import verify as run_verification

    if report:
        check_writable(Path(report) / "index.html")
    terminal = Terminal()
    result = run_verification(model, data, config_path, settings=overrides, against=against, quantized=quantized, split=split,
                              threads=threads, elsewhere=_elsewhere(arm, target, terminal), progress=terminal)
    if report:
        from mnv3_tf.export.verify.report import write_report

        page = write_report(result, report)
    if as_json:
        print_json(result)
    else:
        _print(result)
        if report:
            click.echo(f"Report: {page}")
    if not result.passed:
        raise SystemExit(3)


def _elsewhere(arm: bool, target: str | None, terminal: Terminal) -> dict[str, Any]:
    from mnv3_tf.export.verify.stages import ARM, PHONE

    found: dict[str, Any] = {}
    if arm:
        from mnv3_tf.export.benchmark.devices.emulator import run_on_emulated_arm

        found[ARM] = partial(run_on_emulated_arm, progress=terminal)
    if target:
        from mnv3_tf.export.benchmark.devices.bench import run_on_device

        found[PHONE] = partial(run_on_device, target, progress=terminal)
    return found


def _print(result: "Verification") -> None:
    from mnv3_tf.export.verify.stages import printed

    show(_stages(result), width=140)
    if result.layers.layers:
        show(_layers(result), width=140)
    seen, total = Counter[str](), Counter(finding.kind for finding in result.findings)
    for finding in result.findings:
        seen[finding.kind] += 1
        if seen[finding.kind] <= _FINDINGS:
            show(f"{finding.kind}, {finding.where} ({printed(finding.stage)}): {finding.text}.",
                 "red" if finding.broken else "yellow")
        if seen[finding.kind] == _FINDINGS < total[finding.kind]:
            show(f"{finding.kind}: {total[finding.kind] - _FINDINGS} more of this kind (--report or --json lists them).")
    for stage in result.stages:
        for check in stage.checks:
            if not check.passed:
                show(f"{printed(stage.name)}: {check.text}.", "red")
    for note in result.notes:
        show(f"Note: {note}.")
    show(result.verdict(), "green" if result.passed else "bold red")


def _stages(result: "Verification") -> Any:
    from mnv3_tf.export.verify.stages import printed
    table = new_table("stage", "", "top-1 (95% interval)", "same answers as", "as float", "equal", "mean", "largest",
                      title=f"equal: pictures with every logit the same; differences of a logit in steps of {result.step:.3g}")
    broken = result.broken_stages()
    for stage in result.stages:
        if stage.absent:
            table.add_row(printed(stage.name), "absent", stage.absent, "", "", "", "", "", style="dim")
            continue
        scores, previous, to_float = stage.scores, stage.previous, stage.to_float
        state = "broken" if stage.name in broken else "holds"
        ties = f" ({counted(previous.ties, 'tie')})" if previous and previous.ties else ""
        table.add_row(printed(stage.name), state,
                      f"{scores.top1:.4f} ({scores.top1_low:.3f} to {scores.top1_high:.3f})" if scores else "no labels",
                      f"{previous.agreement:.2%} {printed(previous.against)}{ties}" if previous else "",
                      f"{to_float.agreement:.2%}" if to_float else "",
                      f"{previous.equal} of {len(result.samples)}" if previous else "",
                      f"{previous.mean_steps:.3f}" if previous else "",
                      f"{previous.largest_steps:.2f}" if previous else "", style="red" if state == "broken" else "")
    return table


def _layers(result: "Verification") -> Any:
    from mnv3_tf.export.verify.layers import decibels
    from mnv3_tf.network.layer_names import display_name

    table = new_table("tensor", "signal to noise", "of it alone", "range", "seen", "cut off",
                      title=f"worst tensors against the float model, on {result.layers.pictures} pictures")
    for layer in result.layers.worst_first()[:_SHOWN]:
        span = f"{layer.low:.3g} to {layer.high:.3g}" if layer.low is not None else "float"
        table.add_row(display_name(layer.name), decibels(layer.sqnr_db), decibels(layer.own_sqnr_db), span,
                      f"{layer.seen_low:.3g} to {layer.seen_high:.3g}", f"{layer.saturated:.2%}")
    return table
