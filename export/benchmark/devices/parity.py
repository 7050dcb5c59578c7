"""The answers of a device, as a parity stage."""

from pathlib import Path

from mnv3_tf.export.benchmark.devices.bench import open_target
from mnv3_tf.export.benchmark.devices.identity import identify
from mnv3_tf.export.benchmark.devices.session import opened
from mnv3_tf.export.benchmark.runners.runner_build import build_runner
from mnv3_tf.export.benchmark.runners.runners import KitRunner
from mnv3_tf.progress import Progress


def run_on_device(target: str, model: Path, tensors: Path, outputs: Path, progress: Progress) -> None:
    """Runs input tensors through a file on a device, and leaves nothing there.

    Args:
        target: "adb", "adb:SERIAL" or "ssh:HOST".
        model: a `.tflite` file.
        tensors: one or more input tensors, one after the other.
        outputs: a file here for their outputs.
        progress: told of what is done.

    Raises:
        KitError: the device cannot be used, or gave no outputs.
    """
    device = open_target(target)
    architecture = identify(device).architecture
    with opened(device, progress.say) as session:
        runner = KitRunner(session, build_runner(architecture, progress))
        runner.install()
        runner.outputs(model, tensors, outputs)
