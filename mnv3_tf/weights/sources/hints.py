"""What lies in or beside a file of weights and says more than its tensors: timm's `config.json`, a name in the metadata.

The Hugging Face hub keeps ``config.json`` beside ``model.safetensors`` of a timm network: its ``architecture`` is the name in
timm, ``pretrained_cfg`` has normalization, crop, interpolation and licence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_tf.data import Preprocessing
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json

if TYPE_CHECKING:
    from mnv3_tf.weights.sources.registry import PublishedWeights


@dataclass(frozen=True)
class Hints:
    """What is known of a file beside its tensors; None for what is not.

    Attributes:
        found_in: the file that says so.
        model_name: what the package calls the network.
        mean, std: of the input's channels, as shares of 255.
        crop: the share of the shorter side that evaluation kept.
        interpolation: "bilinear" or "bicubic".
        labels: class names.
        licence: of the weights.
        top1: published accuracy on ImageNet's validation pictures, in percent.
    """

    found_in: str = ""
    model_name: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float | None = None
    interpolation: str | None = None
    labels: tuple[str, ...] | None = None
    licence: str | None = None
    top1: float | None = None

    def preprocessing(self, height: int, width: int) -> Preprocessing | None:
        """How evaluation prepared pictures, for an input of that size; None where crop or interpolation is not known."""
        if self.crop is None or self.interpolation not in ("bilinear", "bicubic"):
            return None
        return Preprocessing(height=height, width=width, resize="crop", crop_fraction=self.crop,
                             interpolation=self.interpolation)  # type: ignore[arg-type]


def read_hints(path: Path) -> Hints:
    """What a `.safetensors` file's metadata, or timm's `config.json` in its folder, says.

    Raises:
        InputError: a `config.json` of a timm network is damaged.
    """
    config = path.with_name("config.json")
    if config.is_file():
        values = read_json(config)
        if isinstance(values, Mapping) and isinstance(values.get("architecture"), str):
            return _timm_config(config, values)
    if path.suffix == ".safetensors":
        metadata = _safetensors_metadata(path)
        for key in ("architecture", "arch", "model_name"):
            if key in metadata:
                return Hints(found_in=f"the metadata of {path}", model_name=metadata[key])
    return Hints()


def published_hints(entry: "PublishedWeights") -> Hints:
    """What the table of published weights says."""
    return Hints(found_in="the table of published weights", mean=entry.mean, std=entry.std, crop=entry.input_size / entry.resize,
                 interpolation=entry.interpolation, licence=entry.licence, top1=entry.top1)


def _timm_config(path: Path, values: Mapping[str, Any]) -> Hints:
    pretrained = values.get("pretrained_cfg")
    details: Mapping[str, Any] = pretrained if isinstance(pretrained, Mapping) else values
    crop = details.get("crop_pct")
    labels = values.get("label_names") or details.get("label_names")
    licence = details.get("license")
    return Hints(
        found_in=str(path), model_name=str(values["architecture"]), mean=_three(path, details, "mean"),
        std=_three(path, details, "std"), crop=float(crop) if isinstance(crop, int | float) and 0 < crop <= 1 else None,
        interpolation=str(details["interpolation"]) if details.get("interpolation") else None,
        labels=tuple(map(str, labels)) if isinstance(labels, list) else None,
        licence=str(licence) if licence else None)


def _three(path: Path, details: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    values = details.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise InputError(f"{path}: {key} is {values!r}; three numbers are needed. Fetch the file again, or remove it and give "
                         "--mean and --std.")
    return tuple(float(v) for v in values)


def _safetensors_metadata(path: Path) -> Mapping[str, str]:
    """The texts that a `.safetensors` file holds beside its tensors; none where the header is damaged, as the reader says."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except safetensors.SafetensorError:
        return {}
