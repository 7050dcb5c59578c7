"""One virtual environment for each published package, in the kit's cache folder, made again only when its requirements change."""

import json
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from mnv3_tf.errors import KitError
from mnv3_tf.files import cache_folder

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Peer:
    """An environment and the worker that runs in it.

    Attributes:
        name: of the environment's folder.
        worker: file beside this one.
        installs: arguments of `pip install`, one tuple a call, in order.
        cpu_index_first: the first call is tried with PyTorch's own index of CPU wheels before PyPI, whose torch for Linux may
            bring CUDA.
    """

    name: str
    worker: str
    installs: tuple[tuple[str, ...], ...]
    cpu_index_first: bool = False


PEERS = {
    peer.name: peer for peer in (
        Peer("torch", "worker_torch.py",
             (("torch==2.13.0",),
              # Without their dependencies: torch is there, and its exact pin would fetch another.
              ("--no-deps", "torchvision==0.28.0", "timm==1.0.31"),
              ("numpy", "Pillow", "safetensors", "PyYAML", "huggingface_hub")), cpu_index_first=True),
        Peer("paddle", "worker_paddle.py",
             (("paddlepaddle==3.3.1",), ("--no-deps", "paddleclas==2.6.0"), ("requests", "tqdm", "PyYAML", "setuptools"))),
    )
}


def environment(peer: Peer) -> Path:
    """The Python of a peer's environment, made where it is missing or its requirements have changed.

    Raises:
        KitError: a package cannot be installed.
    """
    folder = cache_folder() / "peers" / peer.name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "installed.json"
    wanted = {"python": sys.version.split()[0], "installs": [list(call) for call in peer.installs]}
    if stamp.is_file() and python.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    print(f"Making the environment of {peer.name} in {folder}; the first time takes a few minutes", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    for number, call in enumerate(peer.installs):
        tries = [("--index-url", TORCH_CPU_INDEX), ()] if peer.cpu_index_first and not number else [()]
        results = []
        for index in tries:
            results.append(subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
                                           "--retries", "1", *index, *call], capture_output=True, text=True))
            if not results[-1].returncode:
                break
        else:
            raise KitError(f"{peer.name}: pip cannot install {' '.join(call)}.\n{results[-1].stderr[-2000:]}")
    stamp.write_text(json.dumps(wanted))
    return python


def run_worker(peer: Peer, folder: Path) -> dict:
    """Runs a peer's worker, and returns the manifest that it left in the folder.

    Raises:
        KitError: the worker failed; the message ends as its errors do.
    """
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run([environment(peer), Path(__file__).with_name(peer.worker), folder], capture_output=True, text=True)
    if done.returncode:
        raise KitError(f"{peer.name}: {peer.worker} failed.\n{done.stderr[-3000:]}")
    return json.loads((folder / "manifest.json").read_text())
