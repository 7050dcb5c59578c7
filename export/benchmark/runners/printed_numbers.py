"""Numbers as C++ streams print them."""

import math
import re

#: A number, also in scientific notation, or what is printed where there is none.
NUMBER = r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|nan|inf)"
_WHOLE = re.compile(NUMBER)


def read_number(text: str) -> float | None:
    """A finite number, or None."""
    if not _WHOLE.fullmatch(text.strip()):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
