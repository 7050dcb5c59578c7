"""Pieces of sentences: counts with their nouns, shortened lists, what somebody may have meant."""

import difflib
from collections.abc import Iterable, Sequence

# Items of a list that a message shows.
SHOWN = 20


def nearest(word: str, choices: Iterable[str]) -> str:
    """A phrase such as ``; did you mean 'epochs'?``, or nothing where no choice is close."""
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: "1 picture", "2 pictures"."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def suggestions(names: Iterable[str], allowed: Iterable[str]) -> str:
    """Names that are not allowed, each with the nearest one that is."""
    hints = {name: nearest(name, allowed).removeprefix("; ") for name in names}
    return listed((f"{name!r} ({hint})" if hint else repr(name) for name, hint in hints.items()), ", ")


def few(items: Sequence[object], shown: int = 5) -> str:
    """The first items in a sentence, and how many more there are: "a, b and 3 more"."""
    return ", ".join(map(str, items[:shown])) + (f" and {len(items) - shown} more" if len(items) > shown else "")


def listed(lines: Iterable[str], separator: str = "\n  ") -> str:
    """The first lines, and how many more there are."""
    lines = list(lines)
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return separator.join(lines[:SHOWN] + more)
