"""What the packages call their networks: name -> dialect, network and alpha.

A timm file does not say by its tensors whether it is one of the networks ported from TensorFlow (other padding, epsilon and
normalization); its name does.
"""

from dataclasses import dataclass

from mnv3_tf.errors import InputError
from mnv3_tf.text import nearest


@dataclass(frozen=True)
class Published:
    """A network of another package."""

    dialect: str
    name: str
    alpha: float


_ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.25)
_MODEL_NAMES: dict[str, dict[str, Published]] = {
    "keras": {"MobileNetV3Large": Published("keras", "large", 1.0), "MobileNetV3Small": Published("keras", "small", 1.0)},
    "torchvision": {f"mobilenet_v3_{size}": Published("torchvision", size, 1.0) for size in ("large", "small")},
    "timm": {
        **{f"mobilenetv3_{size}_{round(alpha * 100):03}": Published("timm", size, alpha)
           for size, alpha in (("large", 0.75), ("large", 1.0), ("small", 0.5), ("small", 0.75), ("small", 1.0))},
        **{f"tf_mobilenetv3_{size}_{round(alpha * 100):03}": Published("timm_tf", size, alpha)
           for size in ("large", "small") for alpha in (0.75, 1.0)},
        **{f"tf_mobilenetv3_{size}_minimal_100": Published("timm_tf", f"{size}_minimalistic", 1.0)
           for size in ("large", "small")},
    },
    "paddle": {f"MobileNetV3_{size}_x{str(alpha).replace('.', '_')}": Published("paddle", size, alpha)
               for size in ("large", "small") for alpha in _ALPHAS},
}
# Networks of timm that carry the name and are others: why they cannot be imported by name.
_OTHERS = {
    "mobilenetv3_rw": "its first block has no shortcut and its head no bias, which no dialect of this kit has",
    "mobilenetv3_large_150d": "its second block does not expand, and two convolutions come before pooling, unlike any table's",
}


def find_published_name(origin: str, model_name: str) -> Published:
    """The network of that name in the package of that origin; a tag after a dot, as in ``mobilenetv3_large_100.ra_in1k``, and
    an owner before a slash are fine.

    Raises:
        InputError: the package has no such MobileNetV3, or it is one that this kit cannot build.
    """
    bare = model_name.rpartition("/")[2].partition(".")[0]
    known = _MODEL_NAMES.get(origin, {})
    if bare in _OTHERS and origin == "timm":
        raise InputError(f"{model_name}: cannot be imported by its name: {_OTHERS[bare]}.")
    if bare not in known:
        raise InputError(f"{model_name}: {origin} has no MobileNetV3 of that name{nearest(bare, known)}. "
                         f"Known: {', '.join(known)}.")
    return known[bare]
