"""Runs in the environment with paddlepaddle and paddleclas: saves seeded networks as `.pdparams`, with logits.

    python worker_paddle.py FOLDER

The folder gets, for every variant, a file of weights and `X.npz` with the logits of each size of picture, and `manifest.json`.
"""

import importlib.metadata
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).parent))
from generate import pictures, tensor


def _without_running_init(*packages: str) -> None:
    """Makes PaddleClas's packages importable without what their `__init__` would import: OpenCV, Faiss and a downloader."""
    root = Path(importlib.util.find_spec("paddleclas").submodule_search_locations[0]).parent
    for package in packages:
        module = types.ModuleType(package)
        module.__path__ = [str(root / package.replace(".", "/"))]
        sys.modules[package] = module


_without_running_init("paddleclas", "paddleclas.ppcls", "paddleclas.ppcls.arch", "paddleclas.ppcls.arch.backbone",
                      "paddleclas.ppcls.arch.backbone.legendary_models", "paddleclas.ppcls.utils")
from paddleclas.ppcls.arch.backbone.legendary_models import mobilenet_v3
from paddleclas.ppcls.utils import logger

logger.init_logger()  # its networks log, and expect that somebody has done this

SIZES = ((224, 224), (97, 129), (128, 96))
CLASSES = 12
# NormalizeImage in PaddleClas's configurations of MobileNetV3 (ppcls/configs/ImageNet/MobileNetV3).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def fill(model: paddle.nn.Layer) -> None:
    """Sets every tensor from its name."""
    for name, value in model.state_dict().items():
        value.set_value(tensor(name, tuple(value.shape)))
    model.eval()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("paddlepaddle", "paddleclas")}
    manifest = {"versions": versions, "variants": []}
    for size in ("large", "small"):
        for text, alpha in (("x1_0", 1.0), ("x0_75", 0.75), ("x0_5", 0.5), ("x0_35", 0.35), ("x1_25", 1.25)):
            model_name = f"MobileNetV3_{size}_{text}"
            model = getattr(mobilenet_v3, model_name)(class_num=CLASSES)
            fill(model)
            paddle.save(model.state_dict(), str(folder / f"{model_name}.pdparams"))
            answers = {}
            with paddle.no_grad():
                for height, width in SIZES:
                    batch = (pictures(2, height, width).astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
                    answers[f"{height}x{width}"] = model(paddle.to_tensor(batch.transpose(0, 3, 1, 2))).numpy()
            np.savez(folder / f"{model_name}.npz", **answers)
            manifest["variants"].append({
                "package": "paddle", "model_name": model_name, "name": size, "alpha": alpha, "dialect": "paddle",
                "mean": MEAN, "std": STD, "file": f"{model_name}.pdparams", "logits": f"{model_name}.npz", "classes": CLASSES,
                "tensors": [[name, list(value.shape)] for name, value in model.state_dict().items()]})
    (folder / "manifest.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
