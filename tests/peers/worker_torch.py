"""Runs in the environment with torch, torchvision and timm: saves seeded networks in the packages' own formats, with logits.

    python worker_torch.py FOLDER

The folder gets, for every variant, a file of weights and `X.npz` with the logits of each size of picture, and `manifest.json`.
"""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from generate import pictures, tensor

# torchvision's detection operators want the CUDA build of the same torch; no classifier needs them, only their names.
for _operator in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):  # this torchvision has its own
        torch.library.define(f"torchvision::{_operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm
import torchvision
from safetensors.torch import save_file
from torchvision.models import MobileNet_V3_Large_Weights, MobileNet_V3_Small_Weights, mobilenetv3

SIZES = ((224, 224), (97, 129), (128, 96))
CLASSES = 12


def fill(model: torch.nn.Module) -> None:
    """Sets every tensor from its name; what counts batches stays."""
    state = model.state_dict()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            state[name] = torch.from_numpy(tensor(name, tuple(value.shape)))
    model.load_state_dict(state)
    model.eval()


def logits(model: torch.nn.Module, mean: list[float], std: list[float], sizes: tuple[tuple[int, int], ...] = SIZES) -> dict:
    """Answers to seeded pictures, normalized as the package does it."""
    normalize = torchvision.transforms.Normalize(mean, std)
    found = {}
    with torch.inference_mode():
        for height, width in sizes:
            batch = torch.from_numpy(pictures(2, height, width)).permute(0, 3, 1, 2).float() / 255
            found[f"{height}x{width}"] = model(normalize(batch)).numpy()
    return found


def torchvision_variants() -> list[dict]:
    """large and small at alpha 1, and at 0.75 and others through the same function with a width multiplier."""
    found = []
    for size, weights in (("large", MobileNet_V3_Large_Weights.DEFAULT), ("small", MobileNet_V3_Small_Weights.DEFAULT)):
        preset = weights.transforms()
        for alpha in (1.0, 0.75, 0.5, 0.35, 1.25):
            settings, last = mobilenetv3._mobilenet_v3_conf(f"mobilenet_v3_{size}", width_mult=alpha)
            model = mobilenetv3.MobileNetV3(settings, last, num_classes=CLASSES)
            found.append({"package": "torchvision", "model_name": f"mobilenet_v3_{size}", "name": size, "alpha": alpha,
                          "dialect": "torchvision", "model": model, "mean": list(preset.mean), "std": list(preset.std)})
    return found


def timm_variants() -> list[dict]:
    names = {"mobilenetv3_large_100": ("large", 1.0), "mobilenetv3_large_075": ("large", 0.75),
             "mobilenetv3_small_100": ("small", 1.0), "mobilenetv3_small_075": ("small", 0.75),
             "mobilenetv3_small_050": ("small", 0.5), "tf_mobilenetv3_large_100": ("large", 1.0),
             "tf_mobilenetv3_large_075": ("large", 0.75), "tf_mobilenetv3_large_minimal_100": ("large_minimalistic", 1.0),
             "tf_mobilenetv3_small_100": ("small", 1.0), "tf_mobilenetv3_small_075": ("small", 0.75),
             "tf_mobilenetv3_small_minimal_100": ("small_minimalistic", 1.0)}
    found = []
    for model_name, (name, alpha) in names.items():
        model = timm.create_model(model_name, num_classes=CLASSES)
        config = model.pretrained_cfg
        found.append({"package": "timm", "model_name": model_name, "name": name, "alpha": alpha,
                      "dialect": "timm_tf" if model_name.startswith("tf_") else "timm", "model": model,
                      "mean": list(config["mean"]), "std": list(config["std"])})
    return found


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__},
                "variants": []}
    for variant in (*torchvision_variants(), *timm_variants()):
        model = variant.pop("model")
        fill(model)
        stem = f"{variant['package']}-{variant['model_name']}-{variant['alpha']:g}"
        suffix = ".pth" if variant["package"] == "torchvision" else ".safetensors"
        if suffix == ".pth":
            torch.save(model.state_dict(), folder / f"{stem}.pth")
        else:
            save_file(model.state_dict(), folder / f"{stem}.safetensors")
        np.savez(folder / f"{stem}.npz", **logits(model, variant["mean"], variant["std"]))
        tensors = [[name, list(value.shape)] for name, value in model.state_dict().items()]
        manifest["variants"].append({**variant, "file": f"{stem}{suffix}", "logits": f"{stem}.npz", "classes": CLASSES,
                                     "tensors": tensors})
    (folder / "manifest.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
