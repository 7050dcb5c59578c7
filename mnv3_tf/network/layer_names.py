"""What the names of layers say: the block that a layer belongs to, and the name that reports print."""

import re


def display_name(layer_name: str) -> str:
    """The name that reports print: ``block_07_depthwise`` -> ``block_07/depthwise``."""
    return re.sub(r"^(block_\d+|stem|head)_", r"\1/", layer_name)


def block_of(layer_name: str) -> str:
    """The block that a layer belongs to: ``block_07_depthwise`` -> ``block_07``, ``classifier`` -> ``classifier``."""
    return display_name(layer_name).partition("/")[0]
