"""What differs between two artefacts of the kit, in words."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mnv3_tf.artefacts.open import Artefact, open_artefact
from mnv3_tf.config import differences
from mnv3_tf.export.diff.files import compare_files
from mnv3_tf.export.diff.result import Differences
from mnv3_tf.files import plain, sha256
from mnv3_tf.quantization.lowering import FORMER_LOWERINGS


def compare(a: str | Path, b: str | Path) -> Differences:
    """Compares two artefacts in everything that both have.

    Args:
        a, b: run folders, `.keras` or `.tflite` files, of any two kinds.

    Raises:
        InputError: one of them cannot be read.
    """
    found = Differences(open_artefact(a), open_artefact(b))
    _compare_kinds(found)
    _both(found, "class names", found.a.labels, found.b.labels, _class_names)
    _both(found, "preprocessing", found.a.contract, found.b.contract,
          lambda old, new: _changed_keys(plain(old), plain(new)))
    _parentage(found)
    files = [side for side in (found.a, found.b) if side.form == "tflite"]
    if len(files) == 2:
        compare_files(found)
    elif files:
        found.not_compared.append("weights, because a .tflite file holds them in another form; `mnv3 verify` compares the "
                                  "answers")
    else:
        _compare_runs(found)
    _both(found, "library versions", _card(found.a).get("versions"), _card(found.b).get("versions"), _changed_keys)
    return found


def _card(artefact: Artefact) -> dict[str, Any]:
    """An artefact's card without what is not as it should be; empty where there is none."""
    card = dict(artefact.card)
    if card.get("lowering") in FORMER_LOWERINGS:
        card["lowering"] = FORMER_LOWERINGS[card["lowering"]]
    for key in ("metrics", "data", "calibration", "versions", "seeds"):
        if key in card and not isinstance(card[key], Mapping):
            del card[key]
    for key, needed in (("metrics", ("top1", "samples", "loss")), ("data", ("fingerprint", "pictures"))):
        if key in card:
            card[key] = {split: facts for split, facts in card[key].items()
                         if isinstance(facts, Mapping) and all(name in facts for name in needed)}
    return card


def _both(found: Differences, subject: str, a: Any, b: Any, compare_them: Callable[[Any, Any], Iterable[str]]) -> None:
    """Compares a subject that both artefacts have, or says which lacks it."""
    lacking = [name for name, value in (("A", a), ("B", b)) if value is None]
    if lacking:
        found.not_compared.append(f"{subject}, which {' and '.join(lacking)} {'lacks' if len(lacking) == 1 else 'lack'}")
    else:
        found.add(subject, compare_them(a, b))


def _compare_kinds(found: Differences) -> None:
    a, b = found.a, found.b
    sentences = [f"A is a {a.kind}, B is a {b.kind}"] if a.kind != b.kind else []
    for key in ("method", "format", "io", "lowering", "float_blocks"):
        old, new = _card(a).get(key), _card(b).get(key)
        if a.kind == b.kind and old != new:
            sentences.append(f"{key.replace('_', ' ')}: {_text(old)} -> {_text(new)}")
    found.add("kind", sentences)


def _class_names(old: tuple[str, ...], new: tuple[str, ...]) -> list[str]:
    gone, come = [name for name in old if name not in new], [name for name in new if name not in old]
    sentences = [f"{name!r} is only in A" for name in gone] + [f"{name!r} is only in B" for name in come]
    before, after = [name for name in old if name in new], [name for name in new if name in old]
    if before != after:
        at = next(index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
        sentences.insert(0, f"the order differs: output {old.index(before[at])} of A is {before[at]!r}, which is output "
                         f"{new.index(before[at])} of B")
    return sentences


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {_text(old.get(key))} -> {_text(new.get(key))}" for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _ancestry(artefact: Artefact) -> list[tuple[str, str, str]]:
    """(SHA-256 of the weights, how the artefact was made from it, its name), from the artefact upwards."""
    card = _card(artefact)
    verb = "was converted from" if artefact.form == "tflite" else "was quantized from"
    line = [(sha256(artefact.weights), "is", str(artefact.path))]
    steps = [(card.get("quantized_parent"), "was made, with blocks left float, from"), (card.get("parent"), verb)]
    above = card["parent"].get("parent") if isinstance(card.get("parent"), Mapping) else None
    steps.append((above, "was converted from a quantized run of"))
    for entry, how in steps:
        if isinstance(entry, Mapping) and isinstance(entry.get("sha256"), str):
            line.append((entry["sha256"], how, str(Path(entry.get("run", ""), str(entry.get("file"))))))
    return line


def _parentage(found: Differences) -> None:
    """How the two are related; a difference where they come from different parents."""
    ours, theirs = _ancestry(found.a), _ancestry(found.b)
    if len(ours) > 1 or len(theirs) > 1:
        for name, other, line, of in (("A", "B", ours, theirs[0]), ("B", "A", theirs, ours[0])):
            how = next((how for digest, how, _ in line[1:] if digest == of[0]), None)
            if how:
                found.relations.append(f"{name} {how} {other}.")
                return
    shared = next((place for digest, _, place in ours[1:] if digest in {step[0] for step in theirs[1:]}), None)
    if shared:
        found.relations.append(f"Both come from {shared}.")
    if len(ours) > 1 and len(theirs) > 1 and (found.a.kind == found.b.kind or not shared):
        (mine, how, place), (other, other_how, other_place) = ours[1], theirs[1]
        found.add("parentage", [] if mine == other else [f"A {how} {place} (SHA-256 {mine[:12]}...), B {other_how} {other_place} "
                                                         f"({other[:12]}...)"])
    elif not shared and found.a.kind != found.b.kind:
        found.not_compared.append("origin, because the cards do not say how the two are related")


def _compare_runs(found: Differences) -> None:
    """What only runs and `.keras` files have: scores, pictures, networks and settings."""
    from mnv3_tf.export.diff.networks import compare_networks

    a, b = _card(found.a), _card(found.b)
    _both(found, "metrics", a.get("metrics"), b.get("metrics"), lambda old, new: _metrics(old, new, a, b))
    _both(found, "pictures", a.get("data"), b.get("data"), _pictures)
    if found.a.form == found.b.form == "quantized":
        _both(found, "calibration pictures", a.get("calibration"), b.get("calibration"),
              lambda old, new: _pictures({"calibration": old}, {"calibration": new}))
    compare_networks(found)
    _both(found, "configuration", found.a.config, found.b.config, differences)
    _both(found, "seeds", a.get("seeds"), b.get("seeds"), _changed_keys)


def _metrics(old: Mapping[str, Any], new: Mapping[str, Any], *cards: dict[str, Any]) -> list[str]:
    sentences = []
    for split in dict.fromkeys([*old, *new]):
        before, after = old.get(split), new.get(split)
        if before is None or after is None:
            sentences.append(f"{split}: scored only in {'A' if after is None else 'B'}")
        elif before != after:
            old_print, new_print = (card.get("data", {}).get(split, {}).get("fingerprint") for card in cards)
            same = before["samples"] == after["samples"] and old_print == new_print
            pictures = f"on {after['samples']} pictures" if same else (
                f"on other pictures ({before['samples']} in A, {after['samples']} in B), so the two cannot be compared")
            sentences.append(f"{split}: top-1 {before['top1']:.4f} -> {after['top1']:.4f} "
                             f"({100 * (after['top1'] - before['top1']):+.2f} points), loss {before['loss']:.4f} -> "
                             f"{after['loss']:.4f}, {pictures}")
    return sentences


def _pictures(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    sentences: list[str] = []
    for split in dict.fromkeys([*old, *new]):
        before, after = old.get(split), new.get(split)
        if before is None or after is None:
            there: Any = before if after is None else after
            sentences.append(f"{split}: only in {'A' if after is None else 'B'} ({there['pictures']} pictures)")
        elif before["fingerprint"] != after["fingerprint"]:
            sentences.append(f"{split}: other pictures or class names ({before['pictures']} pictures in A, "
                             f"{after['pictures']} in B)")
    return sentences
