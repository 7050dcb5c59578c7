"""Reads HDF5 in a process of its own: over a damaged file libhdf5 may end its process, or not come to an end.

The child is ``python -m mnv3_tf.weights.formats.hdf5_worker GROUPS NAME``; it takes the file's bytes on its standard input,
and gives an `.npz` of the tensors and of what they are on its standard output.
"""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.weights.formats.hdf5 import Group, read_groups

# 100 MB take about a second; the rest is for machines with much other work.
_SECONDS, _BYTES_A_SECOND = 240, 4 << 20
_GROUPS = 100_000


def read_h5(path: Path, content: bytes) -> tuple[str, tuple[Group, ...]]:
    """Every layer that has tensors, in file order.

    Returns:
        ("h5", groups) for the older layout, whose order is that of the network, or ("keras h5", groups) for Keras 3's, whose
        order is by the layers' class and number.

    Raises:
        InputError: it is damaged, holds no weights, or declares more than its size allows; or the reading process failed or did
            not end.
    """
    seconds = _SECONDS + len(content) // _BYTES_A_SECOND
    words = [sys.executable, "-m", __name__, str(_GROUPS), str(path)]
    try:
        done = subprocess.run(words, input=content, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise InputError(f"{path}: damaged: reading it did not end within {seconds} s. Download or save it again.") from None
    if done.returncode == -signal.SIGKILL:
        raise InputError(f"{path}: what read it was killed (SIGKILL), as where memory runs out. Close other programs, or take a "
                         "smaller file.")
    if done.returncode < 0:
        raise InputError(f"{path}: damaged: HDF5 itself failed over it ({signal.Signals(-done.returncode).name}). Download or "
                         "save it again.")
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(f"{path}: cannot be read ({reason[:150]}). It is damaged, or there is too little memory for it. "
                         "Download or save it again.")
    with np.load(io.BytesIO(done.stdout)) as arrays:
        said = json.loads(str(arrays["said"]))
        if "refused" in said:
            raise InputError(said["refused"])
        tensors = iter([arrays[f"arr_{number}"] for number in range(len(arrays.files) - 1)])
    return said["kind"], tuple(
        Group(name, place, {member: next(tensors).view(ml_dtypes.bfloat16) if is_bfloat16 else next(tensors)
                            for member, is_bfloat16 in members})
        for name, place, members in said["groups"])


def main(most_groups: str, name: str) -> None:
    """The child: writes the tensors and how they belong together, or why they cannot be read."""
    tensors: list[np.ndarray] = []
    try:
        kind, groups = read_groups(Path(name), sys.stdin.buffer.read(), int(most_groups))
        tensors = [tensor for group in groups for tensor in group.tensors.values()]
        said = {"kind": kind, "groups": [(group.name, group.path, [(member, tensor.dtype == ml_dtypes.bfloat16)
                                                                   for member, tensor in group.tensors.items()])
                                         for group in groups]}
    except InputError as error:
        said = {"refused": str(error)}
    made = io.BytesIO()
    # NumPy's format does not know bfloat16.
    np.savez(made, *(tensor.view(np.uint16) if tensor.dtype == ml_dtypes.bfloat16 else tensor for tensor in tensors),
             said=np.array(json.dumps(said)))
    sys.stdout.buffer.write(made.getvalue())


if __name__ == "__main__":
    main(*sys.argv[1:])
