"""The configuration of a run: frozen dataclasses, read from YAML and from ``-o section.key=value`` overrides.

Every value is checked against its field's type; an unknown key is an error that names the nearest match.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from mnv3_tf import paddle_config
from mnv3_tf.coercion import coerce
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain, write_text
from mnv3_tf.text import nearest
from mnv3_tf.yaml_text import read_yaml

# A MobileNetV3 halves the sides of a picture five times.
SMALLEST_SIDE = 32
# What the name of settings that come with the kit begins with.
_RECIPE = "mnv3:"


def _number(default: Any, low: float, high: float, *, above: bool = False, says: str = "") -> Any:
    """A field that holds numbers from `low` (if `above`, greater ones) to `high`; `says` is what an error says of that."""
    says = says or f"it must be {'above' if above else 'at least'} {low:g} and at most {high:g}"
    return field(default=default, metadata={"fits": lambda number: (low < number if above else low <= number) and number <= high,
                                            "says": says})


def _path() -> Any:
    """A field that names a file or a folder, kept as an absolute path."""
    return field(default=None, metadata={"path": True})


@dataclass(frozen=True)
class ModelConfig:
    """Which network. See :func:`mnv3_tf.MobileNetV3` for the meaning of the other keys.

    Attributes:
        name: "imported" is a network of any other kind, which is in its run folder and can only be quantized and converted.
        weights: what training starts from: null for random numbers, a run folder, a `.keras` file, "imagenet" (the published
            weights of this network), or the name of published weights.
    """

    weights: str | None = _path()
    name: Literal["large", "small", "large_minimalistic", "small_minimalistic", "imported"] = "small"
    block_table: str | None = _path()
    alpha: float = _number(1.0, 0, 16, above=True)
    dialect: Literal["keras", "torchvision", "timm", "timm_tf", "paddle"] = "keras"
    dropout: float = _number(0.2, 0, 0.99)
    inplanes: int | None = _number(None, 1, 1e5)
    class_squeeze: int | None = _number(None, 1, 1e5)
    class_expand: int | None = _number(None, 1, 1e5)


@dataclass(frozen=True)
class DataConfig:
    """How pictures become tensors.

    Attributes:
        image_size: one side in pixels, or [height, width]; each at least 32 (of an imported network, any).
        resize: "stretch", "crop" (centre crop) or "pad" (letterbox).
        crop_fraction: for "crop", the share of the shorter side that the crop keeps.
        interpolation: "bilinear", "bicubic", "area" or "nearest", with Pillow's antialiasing; "mediapipe": as MediaPipe's
            ImageClassifier samples on a phone, without.
        validation_fraction: share of each class set aside where the data set has no validation split.
        check: how pictures are looked at before the first step: "full" decodes all; "sample" up to 50,000 of each split;
            "headers" reads the beginning of all; "none". null: "full" up to 200,000 pictures, "sample" beyond.
        strict: a broken picture, or one that is in training and in another split, is an error.
        cache_mb: memory for decoded pictures, in MiB; pictures beyond it are decoded again in every epoch.
        workers: what prepares training pictures: up to 4 are threads, more are processes; null: one for each core where there is
            an accelerator, else at most 4.
    """

    image_size: int | tuple[int, int] = _number(224, 1, math.inf, says="each side must be at least 1 pixel")
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    crop_fraction: float = _number(1.0, 0, 1, above=True)
    interpolation: Literal["bilinear", "bicubic", "area", "nearest", "mediapipe"] = "bilinear"
    validation_fraction: float = _number(0.15, 0, 0.9, above=True)
    check: Literal["full", "sample", "headers", "none"] | None = None
    strict: bool = False
    cache_mb: int = _number(1024, 0, 1e7)
    workers: int | None = _number(None, 1, 512)

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
        randaugment: strength, in 0..10, of two operations that RandAugment draws for every picture.
        mixup: alpha of the Beta distribution by which pairs of pictures and their labels are mixed.
        cutmix: the same for pictures into which a rectangle of another is put. With both, a batch has one or the other.
    """

    smallest_area: float = _number(0.35, 0, 1, above=True)
    aspect: float = _number(0.33, 0, 4)
    horizontal_flip: bool = True
    vertical_flip: bool = False
    rotation: float = _number(15.0, 0, 180)
    brightness: float = _number(0.3, 0, 1)
    contrast: float = _number(0.3, 0, 1)
    saturation: float = _number(0.3, 0, 1)
    erase: float = _number(0.25, 0, 1)
    randaugment: float = _number(0.0, 0, 10)
    mixup: float = _number(0.0, 0, 10)
    cutmix: float = _number(0.0, 0, 10)


@dataclass(frozen=True)
class TrainConfig:
    """Float training.

    Attributes:
        learning_rate: peak rate; null: a default of the optimizer, scaled with the batch size.
        warmup_epochs: of linear warm-up before the cosine; null: a twentieth of the epochs, at most 5.
        clip_norm: gradients that are larger than this, all together, are made smaller; 0: never.
        loss: "cross_entropy" of the softmax, or "bce": the binary cross-entropy of every class, as if each were asked for alone,
            which suits pictures that are mixed.
        class_weights: "none", or "balanced" (inversely proportional to the class's pictures).
        ema_decay: of the averaged copy of the weights that is evaluated beside the raw one; 0 for none.
        batchnorm_momentum: null follows the number of steps per epoch.
        mixed_precision: true, "float16" or "bfloat16"; true: bfloat16 where the accelerator has it, else float16; null: the same
            on an accelerator, float32 on a CPU.
        xla: null: on a GPU and on JAX, not on a CPU (where it trains this network 5 to 9 times slower).
        checkpoint_minutes: the resumable state is written this often, and after every epoch.
        monitor: the score on the validation pictures that chooses the best epoch: "top1", "loss", or, where classes have very
            different numbers of pictures, "f1" or "balanced_accuracy".
        patience: training stops after so many epochs without a better one; null: never. With `unfreeze_epochs` they are counted
            once all parts are trained.
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
        tracker: "wandb" (Weights & Biases) or "mlflow", which is told of every epoch; null: TensorBoard's file alone.
        teacher: a run folder, `.keras` or `.tflite` file whose answers are learned beside the labels.
        teacher_weight: share of the loss that asks for the teacher's answers; the rest asks for the labels.
        teacher_temperature: of the teacher's and the network's probabilities in that share.
        devices: GPUs or other devices of each process that a batch is spread over; null: all on JAX, one on TensorFlow.
    """

    epochs: int = _number(100, 1, 1e6)
    batch_size: int = _number(64, 1, 1e6)
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    learning_rate: float | None = _number(None, 0, 100, above=True)
    weight_decay: float = _number(0.02, 0, 10)
    warmup_epochs: float | None = _number(None, 0, 1e6)
    clip_norm: float = _number(0.0, 0, 1e6)
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    label_smoothing: float = _number(0.1, 0, 0.9)
    class_weights: Literal["none", "balanced"] = "none"
    ema_decay: float = _number(0.99, 0, 0.999999)
    batchnorm_momentum: float | None = _number(None, 0, 0.9999)
    mixed_precision: bool | Literal["float16", "bfloat16"] | None = None
    xla: bool | None = None
    checkpoint_minutes: float = _number(10.0, 0, 1e6, above=True)
    monitor: Literal["top1", "loss", "f1", "balanced_accuracy"] = "top1"
    patience: int | None = _number(None, 1, 1e6)
    freeze: str | None = None
    unfreeze_epochs: int | tuple[int, ...] | None = _number(None, 1, 1e6)
    backbone_rate: float | None = _number(None, 0, 100, above=True)
    layer_decay: float | None = _number(None, 0, 1, above=True)
    batchnorm: Literal["auto", "train", "frozen", "reestimate"] = "auto"
    tracker: Literal["wandb", "mlflow"] | None = None
    teacher: str | None = _path()
    teacher_weight: float = _number(0.5, 0, 1)
    teacher_temperature: float = _number(2.0, 0, 100, above=True)
    unlabelled: str | None = _path()
    devices: int | None = _number(None, 1, 1024)
    seed: int = _number(0, 0, 2**32 - 1)


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

    epochs: int = _number(10, 0, 1e6)
    batch_size: int = _number(64, 1, 1e6)
    learning_rate: float = _number(3e-4, 0, 100, above=True)
    calibration_pictures: int = _number(512, 1, 1e6)
    equalize: bool = True
    split_stem: bool | None = None
    compensate_pictures: int = _number(128, 0, 1e5)
    teacher_weight: float = _number(1.0, 0, 1)
    temperature: float = _number(2.0, 0, 100, above=True)
    freeze: str | None = None
    seed: int = _number(0, 0, 2**32 - 1)


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

    pictures: int = _number(1000, 1, 1e6)
    layer_pictures: int = _number(32, 1, 1e4)
    deploy_difference: float = _number(1e-4, 0, 1)
    accuracy_drop: float = _number(0.015, 0, 1)
    quantized_agreement: float = _number(0.9, 0, 1)
    agreement: float = _number(0.99, 0, 1)
    mean_steps: float = _number(2.0, 0, 255)
    reference_steps: float = _number(8.0, 0, 255)
    tie_steps: float = _number(1.0, 0, 255)
    layer_sqnr_db: float = _number(10.0, -100, 200)
    range_excess: float = _number(4.0, 1, 1e6)
    saturated_share: float = _number(0.05, 0, 1)


@dataclass(frozen=True)
class Config:
    """All sections."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)


@dataclass(frozen=True)
class Setting:
    """One key with its value, as a file or an override gives it.

    Attributes:
        section, key: of :class:`Config`.
        value: checked, of the field's type.
        where: file and line, or the override.
    """

    section: str
    key: str
    value: Any
    where: str


Settings = Mapping[str, Any] | Iterable[str]
_SECTIONS: dict[str, Any] = {entry.name: entry.type for entry in dataclasses.fields(Config)}


def load_config(path: str | Path | None = None, overrides: Iterable[str] = (), base: Config | None = None) -> Config:
    """The defaults (or `base`), changed by a YAML file, then by overrides in their order.

    Args:
        path, overrides: as in :func:`read_settings`.
        base: what to start from.

    Raises:
        InputError: as :func:`read_settings`.
    """
    return with_settings(base or Config(), read_settings(path, overrides))


def as_overrides(settings: Settings) -> list[str]:
    """Settings as the texts that :func:`read_settings` takes: of ``{"train.epochs": 40}`` or ``{"train": {"epochs": 40}}``."""
    if not isinstance(settings, Mapping):
        return list(settings)
    flat = {f"{name}.{key}" if key else name: value for name, values in settings.items()
            for key, value in (values.items() if isinstance(values, Mapping) else [("", values)])}
    return [f"{name}={json.dumps(value, default=str)}" for name, value in flat.items()]


def read_settings(path: str | Path | None = None, overrides: Iterable[str] = ()) -> tuple[Setting, ...]:
    """What a YAML file, then overrides set, each value checked.

    Args:
        path: YAML with the sections of :class:`Config`, or "mnv3:NAME" for settings that come with the kit; None for none.
        overrides: texts such as ``train.epochs=40`` or ``data.image_size=[160,128]``.

    Raises:
        InputError: unknown section or key (with the nearest match), a value of the wrong type or out of range; the message
            names the file and line, or the override.
    """
    return (*(_of_file(path) if path is not None else ()), *map(_of_override, overrides))


def with_settings(config: Config, settings: Iterable[Setting]) -> Config:
    """A configuration with settings changed in their order.

    Raises:
        InputError: the size of pictures is too small for a MobileNetV3.
    """
    size = None
    for setting in settings:
        size = setting if (setting.section, setting.key) == ("data", "image_size") else size
        section = dataclasses.replace(getattr(config, setting.section), **{setting.key: setting.value})
        config = dataclasses.replace(config, **{setting.section: section})
    if size is not None and config.model.name != "imported" and min(config.data.height_width) < SMALLEST_SIDE:
        raise InputError(f"{size.where}: data.image_size is {plain(size.value)!r}; each side must be at least {SMALLEST_SIDE} "
                         "pixels, since the network halves them five times.")
    return config


def save_config(path: str | Path, config: Config) -> None:
    """Writes every value, defaults included, as YAML."""
    write_text(path, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))


def differences(old: Config, new: Config) -> list[str]:
    """The keys whose values differ, as ``train.epochs: 40 -> 60``."""
    before, after = by_key(old), by_key(new)
    return [f"{key}: {value} -> {after[key]}" for key, value in before.items() if value != after[key]]


def by_key(config: Config) -> dict[str, Any]:
    """All values as JSON types, by "section.key"."""
    return {f"{section}.{key}": value for section, values in plain(config).items() for key, value in values.items()}


def _of_file(path: str | Path) -> Iterator[Setting]:
    document = read_yaml(_recipe(str(path).removeprefix(_RECIPE)) if str(path).startswith(_RECIPE) else path)
    if paddle_config.is_paddle(document.value):
        raise InputError(f"{path}: is a configuration of PaddleClas. In this kit, as far as it has the same: "
                         f"{paddle_config.command_for(document.value)}")
    for section, values in ({} if document.value is None else document.mapping(set(_SECTIONS))).items():
        if values is not None and not isinstance(values, Mapping):
            raise InputError(f"{path}, line {document.line(section)}: section {section!r} must hold key: value lines, got "
                             f"{values!r}.")
        for key, value in (values or {}).items():
            yield _setting(section, str(key), value, f"{path}, line {document.line(section, key)}", document.path.parent)


def _recipe(name: str) -> Path:
    """The file of settings that comes with the kit under a name."""
    recipes = {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}
    if name not in recipes:
        raise InputError(f"{_RECIPE}{name}: there are no such settings{nearest(name, recipes)}. "
                         f"There are: {', '.join(_RECIPE + known for known in recipes)}.")
    return recipes[name]


def _of_override(override: str) -> Setting:
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    where = f"-o {override}"
    if not equals or not dot:
        raise InputError(f"{where}: an override is written section.key=value, such as train.epochs=40.")
    if section in paddle_config.SECTIONS:
        here = paddle_config.KEYS.get(name.strip())
        raise InputError(f"{where}: {name.strip()} is a key of PaddleClas; "
                         f"{f'here it is {here}' if here else 'this kit has none for it'}. Sections: {', '.join(_SECTIONS)}.")
    if section not in _SECTIONS:
        raise InputError(f"{where}: there is no section {section!r}{nearest(section, _SECTIONS)}. "
                         f"Sections: {', '.join(_SECTIONS)}.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: the value {text!r} cannot be read.") from error
    return _setting(section, key, value, where, Path())


def _setting(section: str, key: str, value: Any, where: str, folder: Path) -> Setting:
    """A checked setting; a path in it is meant from `folder`."""
    fields = {entry.name: entry for entry in dataclasses.fields(_SECTIONS[section])}
    if (section, key) == ("data", "channels"):
        raise InputError(f"{where}: networks take three channels; grey pictures are read as three equal ones (docs/pictures.md). "
                         "Leave the key out.")
    if key not in fields:
        raise InputError(f"{where}: section {section!r} has no key {key!r}{nearest(key, fields)}. Keys: {', '.join(fields)}.")
    name, rules = f"{section}.{key}", fields[key].metadata
    if "path" in rules and isinstance(value, str):
        value = _absolute(name, value, folder)
    try:
        typed = coerce(value, fields[key].type)
    except ValueError as error:
        raise InputError(f"{where}: {name} is {value!r}; allowed: {error}.") from None
    if "fits" in rules and typed is not None and not all(map(rules["fits"], typed if isinstance(typed, tuple) else (typed,))):
        raise InputError(f"{where}: {name} is {value!r}; {rules['says']}.")
    return Setting(section, key, typed, where)


def _absolute(name: str, value: str, folder: Path) -> str:
    """A path as an absolute one: the run folder keeps the settings, and must find the file from wherever it is read."""
    if name == "model.weights" and (value == "imagenet" or not (value.endswith(".keras") or (folder / value).exists())):
        return value  # published weights
    return str((folder / value).resolve())
