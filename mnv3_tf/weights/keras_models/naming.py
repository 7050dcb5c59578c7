"""Which MobileNetV3 a translated network is, and what its layers are called in this kit."""

from mnv3_tf.config import ModelConfig
from mnv3_tf.network.layer_names import block_of
from mnv3_tf.network.plan import Part, network_parts
from mnv3_tf.network.spec import ALPHAS, DIALECTS, OTHER_ALPHAS, SPECS, find_spec
from mnv3_tf.weights.keras_models.translate import Translation

Match = tuple[ModelConfig, tuple[Part, ...]]


def match(found: Translation) -> Match | None:
    """The MobileNetV3 whose convolutions, up to the pooling, come first in the network; None for any other network."""
    convolutions = [layer for layer in found.layers if layer.is_convolution]
    acts = activations_of(found)
    given = [(layer.weights[0].shape, layer.settings["strides"], acts.get(layer.name)) for layer in convolutions]
    follows = {layer.inputs[0]: layer for layer in found.layers if layer.inputs}
    norm = follows.get(convolutions[0].name) if convolutions else None
    if norm is None or norm.kind != "BatchNormalization":
        return None
    adds = sum(layer.kind == "Add" for layer in found.layers)
    pads = any(layer.kind == "ZeroPadding2D" for layer in found.layers)
    for alpha in (*ALPHAS, *OTHER_ALPHAS):
        for name in SPECS:
            for dialect, details in DIALECTS.items():
                parts = network_parts(find_spec(name, dialect), alpha, None)
                fits = given[:len(parts)] == [(part.kernel, part.stride, part.activation) for part in parts]
                fits = fits and adds == sum(part.residual for part in parts)
                if fits and details.computes_like(pads, norm.settings["epsilon"]):
                    return ModelConfig(name=name, alpha=alpha, dialect=dialect), parts  # type: ignore[arg-type]
    return None


def activations_of(found: Translation) -> dict[str, str]:
    """By convolution, the activation behind it and its BatchNorm."""
    roots = {layer.name: layer.inputs[0] for layer in found.layers if layer.kind == "BatchNormalization"}
    return {roots.get(layer.inputs[0], layer.inputs[0]): layer.settings.get("activation", "relu6" if layer.settings else "relu")
            for layer in found.layers if layer.kind in ("ReLU", "Activation")}


def names_of(found: Translation, known: Match | None) -> tuple[dict[str, str], ModelConfig | None]:
    """The name of each layer in the network that is built, and its settings where it is a MobileNetV3."""
    if known is None:
        return {layer.name: layer.name for layer in found.layers}, None
    config, parts = known
    convolutions = [layer.name for layer in found.layers if layer.is_convolution]
    names = {name: part.layer for name, part in zip(convolutions, parts, strict=False)}
    head = convolutions[len(parts):]
    expected = network_parts(find_spec(config.name, config.dialect), config.alpha, 1)[-2]
    layers = {layer.name: layer for layer in found.layers}
    first = layers[head[0]].weights if len(head) == 2 else ()
    whole = bool(first) and first[0].shape == expected.kernel and len(first) == 1 + expected.bias \
        and activations_of(found).get(head[0]) == expected.activation
    names.update({name: f"head_dense_{number}" for number, name in enumerate(head[:-1], start=1)})
    if head:
        names[head[-1]] = "classifier"
    if whole:
        names[head[0]] = "head_expand"
    for place, layer in enumerate(found.layers):
        before = names.get(layer.inputs[0], "")
        behind = next((names[one.name] for one in found.layers[place:] if one.is_convolution), "")
        if layer.kind == "BatchNormalization":
            names[layer.name] = f"{before}_bn"
        elif layer.kind in ("ReLU", "Activation"):
            names[layer.name] = f"{before.removesuffix('_bn')}_{layer.settings.get('activation', 'relu')}"
        elif layer.kind == "ZeroPadding2D":
            names[layer.name] = f"{behind}_pad"
        elif layer.kind == "GlobalAveragePooling2D":
            names[layer.name] = f"{block_of(before)}_se_pool" if behind.endswith("_se_reduce") else "head_pool"
        elif layer.kind in ("Multiply", "Add"):
            last = names.get(layer.inputs[-1], before)
            names[layer.name] = f"{block_of(last)}_{'se_multiply' if layer.kind == 'Multiply' else 'add'}"
    return names, config
