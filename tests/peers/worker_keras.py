"""Saves seeded keras.applications networks, of Keras 3 and of Keras 2 (tf_keras), in every format that they have, with outputs.

    python worker_keras.py FOLDER

Runs in this kit's own environment, which has both. The folder gets, for every variant, a file of weights and `X.npz` with the
outputs for each size of picture, and `manifest.json`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from generate import pictures, tensor

SIZES = ((224, 224), (97, 129), (128, 96))
CLASSES = 12
VARIABLES = {"BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"), "Conv2D": ("kernel", "bias"),
             "DepthwiseConv2D": ("depthwise_kernel",)}

MEMBERS = (("_squeeze_excite_conv_1", "/squeeze_excite/Conv_1"), ("_squeeze_excite_conv", "/squeeze_excite/Conv"),
           ("_expand", "/expand"), ("_depthwise", "/depthwise"), ("_project", "/project"))


def keras2_name(layer: str) -> str:
    """What Keras 2 calls a layer of Keras 3; the seeds follow from the older names."""
    name = layer.removesuffix("_bn")
    words = {"conv": "Conv", "conv_1": "Conv_1", "conv_2": "Conv_2", "logits": "Logits"}
    if name in words:
        found = words[name]
    else:
        for member, older in MEMBERS:
            if name.endswith(member):
                found = name.removesuffix(member) + older
                break
        else:
            raise ValueError(layer)
    return f"{found}/BatchNorm" if layer.endswith("_bn") else found


def fill(model: Any, rename: bool) -> None:
    """Sets every variable from the name that it has in Keras 2."""
    for layer in model.layers:
        if layer.weights:
            older = keras2_name(layer.name) if rename else layer.name
            names = VARIABLES[type(layer).__name__][:len(layer.weights)]
            layer.set_weights([tensor(f"{older}/{name}", tuple(weight.shape))
                               for name, weight in zip(names, layer.weights, strict=True)])


# Package, network, minimalistic, alpha, with a head, what the file is called after its stem.
VARIANTS = (
    ("keras", "Large", False, 1.0, True, ".keras"), ("keras", "Large", False, 0.75, True, ".weights.h5"),
    ("keras", "Small", False, 1.0, True, ".h5"), ("keras", "Small", False, 0.75, False, ".weights.h5"),
    ("keras", "Small", False, 0.5, True, ".h5"), ("keras", "Large", True, 1.0, True, ".weights.h5"),
    ("keras", "Small", True, 1.0, True, ".h5"), ("keras", "Small", False, 1.25, True, ".weights.h5"),
    ("tf_keras", "Large", False, 1.0, False, ".weights.h5"), ("tf_keras", "Large", False, 0.75, True, ".h5"),
    ("tf_keras", "Small", False, 1.0, True, "-weights-only.h5"), ("tf_keras", "Small", False, 0.75, True, ".keras"),
    ("tf_keras", "Large", True, 1.0, True, "-weights-only.h5"), ("tf_keras", "Small", True, 1.0, True, ".h5"),
)


def main(folder: Path) -> None:
    import keras
    import tf_keras

    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict = {"versions": {"keras": keras.__version__, "tf_keras": tf_keras.__version__}, "variants": []}
    for package, size, minimalistic, alpha, top, ending in VARIANTS:
        library = keras if package == "keras" else tf_keras
        answers = {}
        for height, width in SIZES:
            library.backend.clear_session()
            arguments = {"classifier_activation": None, "classes": CLASSES} if top else {}
            model = getattr(library.applications, f"MobileNetV3{size}")(
                input_shape=(height, width, 3), alpha=alpha, minimalistic=minimalistic, include_top=top, weights=None,
                **arguments)
            fill(model, rename=package == "keras")
            answers[f"{height}x{width}"] = np.asarray(model(pictures(2, height, width).astype(np.float32), training=False))
        stem = f"{package}-{model.name}-{'minimalistic-' if minimalistic else ''}{alpha:g}{'' if top else '-no-top'}"
        file = f"{stem}{ending}"
        whole = ending in (".keras", ".h5")
        (model.save if whole else model.save_weights)(str(folder / file))
        np.savez(folder / f"{stem}.npz", **answers)
        tensors = [[f"{keras2_name(layer.name) if package == 'keras' else layer.name}/{name}", list(weight.shape)]
                   for layer in model.layers if layer.weights
                   for name, weight in zip(VARIABLES[type(layer).__name__], layer.weights, strict=False)]
        manifest["variants"].append({
            "package": package, "model_name": f"MobileNetV3{size}",
            "name": size.lower() + ("_minimalistic" if minimalistic else ""),
            "alpha": alpha, "dialect": "keras", "file": file, "logits": f"{stem}.npz", "classes": CLASSES if top else None,
            "tensors": tensors})
    (folder / "manifest.json").write_text(json.dumps(manifest))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
