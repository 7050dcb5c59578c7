"""Tensors as the packages would have saved them, from the lists that `make peers` wrote and the seeds that it used."""

import functools
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from peers.generate import tensor

GOLDENS = Path(__file__).parent / "goldens"
PACKAGES = ("torchvision", "timm", "paddle", "keras", "tf_keras")


@functools.cache
def goldens(package: str) -> tuple[dict[str, Any], ...]:
    """Every network of a package: names and shapes of its tensors, and its answers to seeded pictures."""
    return tuple(json.loads(gzip.decompress((GOLDENS / f"{package}.json.gz").read_bytes()))["variants"])


def golden(package: str, model_name: str, alpha: float) -> dict[str, Any]:
    """One of them."""
    return next(v for v in goldens(package) if (v["model_name"], v["alpha"]) == (model_name, alpha))


def tensors_of(variant: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a network, by the package's names."""
    return {name: np.array(7.0, np.float32) if name.endswith("num_batches_tracked") else tensor(name, shape)
            for name, shape in variant["tensors"]}
