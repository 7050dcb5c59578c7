"""Values of a configuration as the types of their fields."""

import types
import typing
from typing import Any, Literal

from mnv3_tf.text import nearest


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
        if value is None and type(None) in arguments:
            return None
        phrases = []
        for option in arguments:
            if option is type(None):
                phrases.append("null")
                continue
            try:
                return coerce(value, option)
            except ValueError as error:
                phrases.append(str(error))
        raise ValueError(" or ".join(phrases))
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(", ".join(map(str, arguments)) + nearest(str(value), arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        if isinstance(value, (list, tuple)) and value:
            return tuple(coerce(item, arguments[0]) for item in value)
        raise ValueError("a list such as [2, 4, 6]")
    if origin is tuple:
        if isinstance(value, (list, tuple)) and len(value) == len(arguments):
            return tuple(coerce(item, kind) for item, kind in zip(value, arguments, strict=True))
        raise ValueError("[height, width]")
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("true or false")
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValueError("a whole number")
    if hint is float:
        return _coerce_float(value)
    if isinstance(value, str):
        return value
    raise ValueError("text")


def _coerce_float(value: Any) -> float:
    # YAML 1.1 reads 1e-3 as text, for want of a dot.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError("a number") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError("a finite number")
    return number
