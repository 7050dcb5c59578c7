"""What people call training, validation and test: folders such as `Training` and `seg_train`, lists such as `val.txt`."""

import re

SPLITS = ("train", "val", "test")
_FILL = ("datasets?|data|sets?|images?|imgs?|pics?|pictures?|photos?|folders?|splits?|files?|lists?|labels?|classes|class|"
         "original|full|jpe?g|png")
_WORD = re.compile(rf"(?:{_FILL})*(?:(?P<train>training|train|trn)|(?P<test>testing|test|tst|holdout)|"
                   rf"(?P<val>validation|valid|val|development|devel|dev|evaluation|eval))(?:{_FILL})*")
_PARTS = re.compile(r"[^\W\d_]+")


def split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """What split a folder or list is named for, if any.

    Case, numbers, separators and words such as "set", "data" and "images" do not count.

    Args:
        name: of the folder, or of the list without its ending.

    Returns:
        "train", "val" or "test", and the other words of the name: () for `Test_data`, ("seg",) for `seg_train`. None for a
        name that says no split, or two.
    """
    parts = [part.lower() for part in _PARTS.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))]
    found = {part: match.lastgroup for part in parts if (match := _WORD.fullmatch(part))}
    if len(found) != 1:
        return None
    rest = tuple(part for part in parts if part not in found and not says_nothing(part))
    return str(next(iter(found.values()))), rest


def says_nothing(name: str) -> bool:
    """Whether a name has only words that any data set may use, such as "images" or "data"."""
    return all(re.fullmatch(f"(?:{_FILL})+", part.lower()) for part in _PARTS.findall(name))
