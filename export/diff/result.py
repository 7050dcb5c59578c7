"""What a comparison of two artefacts finds, in words."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mnv3_tf.artefacts.open import Artefact
from mnv3_tf.files import plain

# Sentences of a group that are shown; all of them are kept.
SHOWN = 10


def ranked(rows: Iterable[tuple[float, str]], head: str) -> list[str]:
    """Sentences about what differs by how much, the largest difference first, below a heading; nothing without any."""
    sentences = [text for _, text in sorted(rows, key=lambda row: -row[0])]
    return [head, *sentences] if sentences else []


@dataclass(frozen=True)
class Group:
    """Sentences about one subject, the most important first."""

    heading: str
    sentences: tuple[str, ...]


@dataclass
class Differences:
    """What differs between A and B.

    Attributes:
        a, b: what was compared.
        relations: how the two are related, such as "B was quantized from A"; no differences.
        groups: the differences, the most important first; none where all is identical.
        compared: the subjects that both have.
        not_compared: the others, with the reason.
    """

    a: Artefact
    b: Artefact
    relations: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether nothing that was compared differs."""
        return not self.groups

    def add(self, subject: str, sentences: Iterable[str]) -> None:
        """Notes that a subject was compared, and what differs in it."""
        self.compared.append(subject)
        found = tuple(sentences)
        if found:
            self.groups.append(Group(subject[0].upper() + subject[1:], found))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with every sentence."""
        return plain({**{side: {"path": one.path, "kind": one.kind} for side, one in (("a", self.a), ("b", self.b))},
                      "identical": self.identical, "relations": self.relations, "groups": self.groups,
                      "compared": self.compared, "not_compared": self.not_compared})

    def lines(self, shown: int = SHOWN) -> list[str]:
        """The comparison as text; at most `shown` sentences a group."""
        lines = [f"A: {self.a.path} ({self.a.kind})", f"B: {self.b.path} ({self.b.kind})", *self.relations]
        for group in self.groups:
            lines += ["", group.heading, *(f"  {sentence}" for sentence in group.sentences[:shown])]
            if len(group.sentences) > shown:
                lines.append(f"  ... and {len(group.sentences) - shown} more")
        equal = [name for name in self.compared if name[0].upper() + name[1:] not in {group.heading for group in self.groups}]
        everything = f"A and B are identical in everything compared: {', '.join(self.compared)}."
        lines += ["", everything if self.identical else f"Equal: {', '.join(equal) or 'nothing of what was compared'}."]
        return lines + [f"Not compared: {reason}." for reason in self.not_compared]
