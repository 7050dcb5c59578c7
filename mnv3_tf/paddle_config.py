"""Configurations of PaddleClas: known when they are met, and said in this kit's settings."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

SECTIONS = {"Global", "Arch", "Optimizer", "DataLoader", "Loss", "Metric", "Infer", "AMP", "EMA"}
# Key of PaddleClas -> what it is here: a setting, an option of `mnv3 train`, or a file.
KEYS = {
    "Global.epochs": "train.epochs", "Global.image_shape": "data.image_size", "Global.seed": "train.seed",
    "Global.output_dir": "--out", "Global.pretrained_model": "model.weights", "Global.class_id_map_file": "labels.txt in --data",
    "Arch.name": "model.name", "Arch.pretrained": "model.weights", "Arch.class_num": "the number of classes in --data",
    "Optimizer.name": "train.optimizer", "Optimizer.lr.learning_rate": "train.learning_rate",
    "Optimizer.lr.warmup_epoch": "train.warmup_epochs", "Optimizer.regularizer.coeff": "train.weight_decay",
    "DataLoader.Train.dataset.image_root": "--data", "DataLoader.Train.dataset.cls_label_path": "train_list.txt in --data",
    "DataLoader.Train.sampler.batch_size": "train.batch_size", "DataLoader.Train.loader.num_workers": "data.workers",
    "AMP.use_amp": "train.mixed_precision", "EMA.decay": "train.ema_decay"}
_NETWORK = re.compile(r"MobileNetV3_(small|large)_x(\d)_(\d+)")
_OPTIMIZERS = {"Momentum": "sgd", "SGD": "sgd", "AdamW": "adamw", "Adam": "adamw", "RMSProp": "rmsprop"}


def is_paddle(document: Any) -> bool:
    """Whether what a YAML file holds is a configuration of PaddleClas."""
    return isinstance(document, Mapping) and bool({"Arch", "Global"} & set(document)) and len(SECTIONS & set(document)) >= 2


def command_for(document: Mapping[str, Any]) -> str:
    """The `mnv3 train` that does what a configuration of PaddleClas asks for, as far as this kit has it."""
    options = {"--data": "PICTURES", "--out": "RUN"}
    settings: dict[str, Any] = {}
    for path, key in KEYS.items():
        value: Any = document
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, str | int | float | list) or value in ("", []):
            continue
        if key in options:
            options[key] = str(value)
        elif path == "Arch.name":
            settings |= _network(str(value))
        elif key == "train.optimizer":
            settings |= {key: _OPTIMIZERS[value]} if value in _OPTIMIZERS else {}
        elif key == "data.image_size":
            sides = value[-2:] if isinstance(value, list) else [value]
            settings[key] = sides[0] if len(set(map(str, sides))) == 1 else f"[{sides[0]},{sides[1]}]"
        elif key.startswith(("train.", "data.")):
            settings[key] = str(value).lower() if isinstance(value, bool) else value
    return shlex.join(["mnv3", "train", *(part for option in options.items() for part in option),
                       *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))])


def _network(name: str) -> dict[str, Any]:
    match = _NETWORK.match(name)
    return {"model.name": match[1], "model.alpha": float(f"{match[2]}.{match[3]}"), "model.dialect": "paddle"} if match else {}
