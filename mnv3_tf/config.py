"""The configuration of a run: frozen dataclasses, read from YAML and from ``-o section.key=value`` overrides.

Every value is checked against its field's type; an unknown key is an error that names the nearest match.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from mnv3_tf.coercion import coerce
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain, write_text
from mnv3_tf.text import nearest
from mnv3_tf.yaml_text import YamlDocument, read_yaml


@dataclass(frozen=True)
class ModelConfig:
    """Which network. See :func:`mnv3_tf.MobileNetV3` for the meaning of the other keys.

    Attributes:
        weights: what training starts from: null for random numbers, a run folder, a `.keras` file, "imagenet" (the published
            weights of this network), or the name of published weights.
    """

    weights: str | None = None
    name: Literal["large", "small", "large_minimalistic", "small_minimalistic"] = "small"
    block_table: str | None = None
    alpha: float = 1.0
    dialect: Literal["keras", "torchvision", "timm", "timm_tf", "paddle"] = "keras"
    dropout: float = 0.2
    inplanes: int | None = None
    class_squeeze: int | None = None
    class_expand: int | None = None


@dataclass(frozen=True)
class DataConfig:
    """How pictures become tensors.

    Attributes:
        image_size: one side in pixels, or [height, width]; each at least 32.
        resize: "stretch", "crop" (centre crop) or "pad" (letterbox).
        crop_fraction: for "crop", the share of the shorter side that the crop keeps.
        interpolation: "bilinear", "bicubic", "area" or "nearest", with Pillow's antialiasing; "mediapipe": as MediaPipe's
            ImageClassifier samples on a phone, without.
        validation_fraction: share of each class set aside where the data set has no validation split.
        strict: a broken picture, or one that is in training and in another split, is an error.
        cache_mb: memory for decoded pictures, in MiB; pictures beyond it are decoded again in every epoch.
        workers: threads that prepare training pictures; null chooses by the machine.
    """

    image_size: int | tuple[int, int] = 224
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    crop_fraction: float = 1.0
    interpolation: Literal["bilinear", "bicubic", "area", "nearest", "mediapipe"] = "bilinear"
    validation_fraction: float = 0.15
    strict: bool = False
    cache_mb: int = 1024
    workers: int | None = None

    @property
    def height_width(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training pictures; shares and strengths are 0 for off.

    Attributes:
        smallest_area: the random crop has at least this share of the picture, before its aspect ratio is varied; 1, with an
            aspect of 0, switches cropping off.
        aspect: the crop's aspect ratio varies within [1/(1+aspect), 1+aspect].
        horizontal_flip, vertical_flip: mirror half of the pictures.
        rotation: degrees, at most, either way.
        brightness, contrast, saturation: strength of the colour changes, in 0..1.
        erase: share of pictures with a rectangle blanked out.
        mixup: alpha of the Beta distribution that mixes pairs of pictures and their labels.
    """

    smallest_area: float = 0.35
    aspect: float = 0.33
    horizontal_flip: bool = True
    vertical_flip: bool = False
    rotation: float = 15.0
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    erase: float = 0.25
    mixup: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """Float training.

    Attributes:
        learning_rate: peak rate; null: a default of the optimizer, scaled with the batch size.
        warmup_epochs: of linear warm-up before the cosine; null: a twentieth of the epochs, at most 5.
        class_weights: "none", or "balanced" (inversely proportional to the class's pictures).
        ema_decay: of the averaged copy of the weights that is evaluated beside the raw one; 0 for none.
        batchnorm_momentum: null follows the number of steps per epoch.
        mixed_precision: null: float16 arithmetic on a GPU, float32 on a CPU.
        xla: null: on a GPU and on JAX, not on a CPU (where it trains this network 5 to 9 times slower).
        checkpoint_minutes: the resumable state is written this often, and after every epoch.
        freeze: a block, such as "block_08", "stem" or "head_conv": the weights and statistics from the input to its end stay as
            `model.weights` has them.
        unfreeze_epochs: null trains everything that is not frozen from the start. A number: first the layers after pooling
            alone, the rest from that epoch on. A list: the rest in as many parts, from the top downwards.
        backbone_rate: learning rate of the layers before pooling, relative to those after it; null: by what is done with
            BatchNorm.
        layer_decay: the learning rate of a block, relative to the block after it; null: 1, or 0.8
            for few pictures with `model.weights` and nothing frozen.
        batchnorm: "train": batch statistics; "frozen": BatchNorm is not trained and uses the statistics of `model.weights`;
            "reestimate": statistics measured on the training pictures, then as "train"; "auto": see docs/finetuning.md.
        teacher: a run folder, `.keras` or `.tflite` file whose answers are learned beside the labels.
        teacher_weight: share of the loss that asks for the teacher's answers; the rest asks for the labels.
        teacher_temperature: of the teacher's and the network's probabilities in that share.
    """

    epochs: int = 100
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    learning_rate: float | None = None
    weight_decay: float = 0.02
    warmup_epochs: float | None = None
    label_smoothing: float = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    ema_decay: float = 0.99
    batchnorm_momentum: float | None = None
    mixed_precision: bool | None = None
    xla: bool | None = None
    checkpoint_minutes: float = 10.0
    freeze: str | None = None
    unfreeze_epochs: int | tuple[int, ...] | None = None
    backbone_rate: float | None = None
    layer_decay: float | None = None
    batchnorm: Literal["auto", "train", "frozen", "reestimate"] = "auto"
    teacher: str | None = None
    teacher_weight: float = 0.5
    teacher_temperature: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class QuantizeConfig:
    """Quantization.

    Attributes:
        epochs: of quantization-aware fine-tuning.
        learning_rate: its peak rate (warm-up, then cosine to zero), relative to the size of each tensor's parameters.
        calibration_pictures: training pictures that the activation ranges start from; fine-tuning then learns them.
        equalize: give channels one size where that costs nothing behind, exactly in real numbers.
        split_stem: whether that includes the stem, whose hard-swish is then computed from two convolutions; null: where its
            channels differ much.
        compensate_pictures: of these, unlabelled, at most (fewer where memory would not do), that kernels and biases are fitted
            on to make up for 8 bits; 0 for rounding alone.
        teacher_weight: share of the loss that asks for the float model's answers; the rest asks for the labels.
        temperature: of the teacher's probabilities.
        freeze: a block, such as "block_08": fine-tuning leaves the kernels from the input to its end as they are.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-4
    calibration_pictures: int = 512
    equalize: bool = True
    split_stem: bool | None = None
    compensate_pictures: int = 128
    teacher_weight: float = 1.0
    temperature: float = 2.0
    freeze: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class VerifyConfig:
    """What `mnv3 verify` allows, and how much it looks at.

    A limit on pictures never fails for a single one; a picture whose two best classes lie within `tie_steps` is no
    disagreement whichever of them is answered. A step is one step of the 8-bit output.

    Attributes:
        pictures: looked at, at most; chosen at random, the same for the same data.
        layer_pictures: of these, how many the look at every tensor takes.
        deploy_difference: float Keras to the folded network: the largest difference of a logit, as a share of the logits' range.
        accuracy_drop: top-1 that every 8-bit form may lose against the float model, in 0..1.
        quantized_agreement: share of pictures on which the first 8-bit form gives the float model's answer.
        agreement: share of equal answers between all other neighbouring stages.
        mean_steps: mean difference of a logit between quantized Keras and the file.
        reference_steps: the same for the reference kernels where what they should compute is not known in whole numbers (blocks
            left float, native hard-swishes). Their means over a picture are a step off now and then.
        tie_steps: see above.
        layer_sqnr_db: signal to noise that each operation of the file must reach by itself, given its own inputs.
        range_excess: how many times wider a tensor's range may be than what the pictures show.
        saturated_share: share of a tensor's values that its range may cut off, in 0..1.
    """

    pictures: int = 1000
    layer_pictures: int = 32
    deploy_difference: float = 1e-4
    accuracy_drop: float = 0.015
    quantized_agreement: float = 0.9
    agreement: float = 0.99
    mean_steps: float = 2.0
    reference_steps: float = 8.0
    tie_steps: float = 1.0
    layer_sqnr_db: float = 10.0
    range_excess: float = 4.0
    saturated_share: float = 0.05


@dataclass(frozen=True)
class Config:
    """All sections."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)


# Settings that name a file or a folder.
_PATHS = {("model", "block_table"), ("model", "weights"), ("train", "teacher")}
# What each number may be: (lowest, highest, lowest itself allowed). Anything not listed is free.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "model.alpha": (0, 16, False), "model.dropout": (0, 0.99, True), "model.inplanes": (1, 1e5, True),
    "model.class_squeeze": (1, 1e5, True), "model.class_expand": (1, 1e5, True),
    "data.crop_fraction": (0, 1, False), "data.validation_fraction": (0, 0.9, False), "data.cache_mb": (0, 1e7, True),
    "data.workers": (1, 512, True),
    "augment.smallest_area": (0, 1, False), "augment.aspect": (0, 4, True), "augment.rotation": (0, 180, True),
    "augment.brightness": (0, 1, True), "augment.contrast": (0, 1, True), "augment.saturation": (0, 1, True),
    "augment.erase": (0, 1, True), "augment.mixup": (0, 10, True),
    "train.epochs": (1, 1e6, True), "train.batch_size": (1, 1e6, True), "train.learning_rate": (0, 100, False),
    "train.weight_decay": (0, 10, True), "train.warmup_epochs": (0, 1e6, True), "train.label_smoothing": (0, 0.9, True),
    "train.ema_decay": (0, 0.999999, True), "train.batchnorm_momentum": (0, 0.9999, True),
    "train.unfreeze_epochs": (1, 1e6, True), "train.backbone_rate": (0, 100, False), "train.layer_decay": (0, 1, False),
    "train.teacher_weight": (0, 1, True), "train.teacher_temperature": (0, 100, False),
    "train.checkpoint_minutes": (0, 1e6, False), "train.seed": (0, 2**32 - 1, True),
    "quantize.epochs": (0, 1e6, True), "quantize.batch_size": (1, 1e6, True), "quantize.learning_rate": (0, 100, False),
    "quantize.calibration_pictures": (1, 1e6, True), "quantize.compensate_pictures": (0, 1e5, True),
    "quantize.teacher_weight": (0, 1, True),
    "quantize.temperature": (0, 100, False), "quantize.seed": (0, 2**32 - 1, True),
    "verify.pictures": (1, 1e6, True), "verify.layer_pictures": (1, 1e4, True), "verify.deploy_difference": (0, 1, True),
    "verify.accuracy_drop": (0, 1, True), "verify.quantized_agreement": (0, 1, True), "verify.agreement": (0, 1, True),
    "verify.mean_steps": (0, 255, True), "verify.reference_steps": (0, 255, True), "verify.tie_steps": (0, 255, True),
    "verify.layer_sqnr_db": (-100, 200, True), "verify.range_excess": (1, 1e6, True), "verify.saturated_share": (0, 1, True),
}


def load_config(path: str | Path | None = None, overrides: Iterable[str] = (), base: Config | None = None) -> Config:
    """The defaults (or `base`), changed by a YAML file, then by overrides in their order.

    Args:
        path: YAML with the sections of :class:`Config`; None for none.
        overrides: texts such as ``train.epochs=40`` or ``data.image_size=[160,128]``.
        base: what to start from.

    Raises:
        InputError: unknown section or key (with the nearest match), a value of the wrong type or out of range; the message
            names the file and line, or the override.
    """
    config = base or Config()
    if path is not None:
        document = read_yaml(path)
        config = _apply_document(config, document)
    for override in overrides:
        config = _apply_override(config, override)
    return config


def save_config(path: str | Path, config: Config) -> None:
    """Writes every value, defaults included, as YAML."""
    write_text(path, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))


def differences(old: Config, new: Config) -> list[str]:
    """The keys whose values differ, as ``train.epochs: 40 -> 60``."""
    before, after = plain(old), plain(new)
    return [f"{section}.{key}: {before[section][key]} -> {after[section][key]}"
            for section in before for key in before[section] if before[section][key] != after[section][key]]


def _apply_document(config: Config, document: YamlDocument) -> Config:
    if document.value is None:
        return config
    sections = _fields(Config)
    for section, values in document.mapping(set(sections)).items():
        where = f"{document.path}, line {document.line(section)}"
        if values is None:
            continue
        if not isinstance(values, Mapping):
            raise InputError(f"{where}: section {section!r} must hold key: value lines, got {values!r}.")
        for key, value in values.items():
            value = _absolute(section, str(key), value, document.path.parent)
            config = _set(config, section, str(key), value, f"{document.path}, line {document.line(section, key)}")
    return config


def _apply_override(config: Config, override: str) -> Config:
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    where = f"-o {override}"
    if not equals or not dot:
        raise InputError(f"{where}: an override is written section.key=value, such as train.epochs=40.")
    if section not in _fields(Config):
        raise InputError(f"{where}: there is no section {section!r}{nearest(section, _fields(Config))}. "
                         f"Sections: {', '.join(_fields(Config))}.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: the value {text!r} cannot be read.") from error
    return _set(config, section, key, _absolute(section, key, value, Path()), where)


def _absolute(section: str, key: str, value: Any, folder: Path) -> Any:
    """A path as an absolute one: the run folder keeps the settings, and must find the file from wherever it is read."""
    if not isinstance(value, str) or (section, key) not in _PATHS or Path(value).is_absolute():
        return value
    name = value == "imagenet" or (not value.endswith(".keras") and not (folder / value).exists())
    if (section, key) == ("model", "weights") and name:
        return value
    return str((folder / value).resolve())


def _fields(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _replace(config: Config, section: str, key: str, value: Any) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{key: value})})


def _set(config: Config, section: str, key: str, value: Any, where: str) -> Config:
    hints = _fields(type(getattr(config, section)))
    if key not in hints:
        raise InputError(f"{where}: section {section!r} has no key {key!r}{nearest(key, hints)}. "
                         f"Keys: {', '.join(hints)}.")
    name = f"{section}.{key}"
    try:
        typed = coerce(value, hints[key])
    except ValueError as error:
        raise InputError(f"{where}: {name} is {value!r}; allowed: {error}.") from None
    if name == "data.image_size":
        sides = (typed,) if isinstance(typed, int) else typed
        if min(sides) < 32:
            raise InputError(f"{where}: {name} is {value!r}; each side must be at least 32 pixels.")
    if name in _RANGES and typed is not None:
        low, high, closed = _RANGES[name]
        if any(not (low <= number <= high) or (number == low and not closed)
               for number in (typed if isinstance(typed, tuple) else (typed,))):
            raise InputError(f"{where}: {name} is {value!r}; it must be {'at least' if closed else 'above'} {low:g} "
                             f"and at most {high:g}.")
    return _replace(config, section, key, typed)
