"""Values of a configuration as the types of their fields."""

import math
import types
import typing
from typing import Any, Literal

from mnv3_tf.text import nearest

_PHRASES = {bool: "true or false", int: "a whole number", str: "text", type(None): "null"}


def coerce(value: Any, hint: Any) -> Any:
    """A value as YAML reads it, as a field's type.

    Args:
        value: plain: text, numbers, truth values, None, lists.
        hint: the field's type: those, Literal, tuples, and unions of them.

    Raises:
        ValueError: it is not a value of this type; the message is a phrase that says what is allowed.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        phrases = []
        for option in arguments:
            try:
                return coerce(value, option)
            except ValueError as error:
                phrases.append(str(error))
        raise ValueError(" or ".join(phrases))
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(", ".join(map(str, arguments)) + nearest(str(value), arguments))
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        if not isinstance(value, (list, tuple)) or not (value if many else len(value) == len(arguments)):
            raise ValueError("a list such as [2, 4, 6]" if many else "[height, width]")
        return tuple(coerce(item, arguments[0]) for item in value)
    if hint is float:
        try:
            number = float(value) if type(value) in (int, float, str) else None  # YAML 1.1 reads 1e-3 as text, for want of a dot
        except (ValueError, OverflowError):
            number = None
        if number is None:
            raise ValueError("a number")
        if not math.isfinite(number):
            raise ValueError("a finite number")
        return number
    if type(value) is hint:  # a truth value is no whole number
        return value
    raise ValueError(_PHRASES[hint])
