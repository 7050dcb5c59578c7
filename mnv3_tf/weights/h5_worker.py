"""Reads HDF5 in a process of its own: over a damaged file libhdf5 may end its process, or not come to an end.

The child is ``python -m mnv3_tf.weights.h5_worker FILE OUT GROUPS NAME``; it writes the tensors to OUT (`.npz`) and prints one
line of JSON.
"""

import json
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.weights.h5_files import Group, read_groups

# 100 MB take about a second.
_SECONDS, _BYTES_A_SECOND = 60, 4 << 20


def read_apart(path: Path, content: bytes, most_groups: int) -> tuple[str, tuple[Group, ...]]:
    """What :func:`mnv3_tf.weights.h5_files.read_groups` gives, whatever becomes of the process that reads.

    Raises:
        InputError: as there; or the reading process failed or did not end.
    """
    seconds = _SECONDS + len(content) // _BYTES_A_SECOND
    with tempfile.TemporaryDirectory(prefix="mnv3-h5-") as folder:
        given, out = Path(folder) / "given.h5", Path(folder) / "read.npz"
        given.write_bytes(content)
        words = [sys.executable, "-m", __name__, str(given), str(out), str(most_groups), str(path)]
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
                                  errors="replace")
        except subprocess.TimeoutExpired:
            raise InputError(f"{path}: damaged: reading it did not end within {seconds} s. Download or save it again.") from None
        line = (done.stdout.strip().splitlines() or [""])[-1]
        if done.returncode == 0 and line.startswith("{"):
            said = json.loads(line)
            if "refused" in said:
                raise InputError(said["refused"])
            return said["kind"], _groups(said["groups"], out)
    if done.returncode < 0 and -done.returncode in set(signal.Signals):
        raise InputError(f"{path}: damaged: HDF5 itself failed over it ({signal.Signals(-done.returncode).name}). Download or "
                         "save it again.")
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise InputError(f"{path}: damaged, or HDF5 of a kind that Keras does not write ({reason[:150]}). Download or save it again.")


def _groups(described: list[tuple[str, str, list[tuple[str, bool]]]], out: Path) -> tuple[Group, ...]:
    groups, number = [], 0
    with np.load(out) as arrays:
        for name, path, members in described:
            tensors = {}
            for member, brain in members:
                tensors[member] = arrays[str(number)].view(ml_dtypes.bfloat16) if brain else arrays[str(number)]
                number += 1
            groups.append(Group(name, path, tensors))
    return tuple(groups)


def main(given: str, out: str, most_groups: str, name: str) -> None:
    """The child: writes the tensors and prints how they belong together, or why they cannot be read."""
    try:
        kind, groups = read_groups(Path(name), Path(given).read_bytes(), int(most_groups))
    except InputError as error:
        print(json.dumps({"refused": str(error)}))
        return
    tensors = [tensor for group in groups for tensor in group.tensors.values()]
    with zipfile.ZipFile(out, "w") as archive:
        for number, tensor in enumerate(tensors):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, tensor.view(np.uint16) if tensor.dtype == ml_dtypes.bfloat16 else tensor,
                                          allow_pickle=False)
    described = [(group.name, group.path, [(member, tensor.dtype == ml_dtypes.bfloat16)
                                           for member, tensor in group.tensors.items()]) for group in groups]
    print(json.dumps({"kind": kind, "groups": described}))


if __name__ == "__main__":
    main(*sys.argv[1:])
