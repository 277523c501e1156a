"""Which models come before which: those whose segments one takes (``segments_of``), and those that a rule names (``after``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dicom_node.config_rules import Rule
from models.bundle import Bundle


def problems(rules: Sequence[Rule], bundles: Mapping[str, Bundle]) -> list[str]:
    """What cannot be of the order that rules and bundles ask for, in sentences: a model that nothing runs, and circles.

    Parameters
    ----------
    bundles
        What the rules' words for models mean.
    """
    before: dict[str, set[str]] = {}
    found = []
    run = {bundles[name].name for rule in rules for name in rule.run if name in bundles}
    for rule in rules:
        for bundle in (bundles[name] for name in rule.run if name in bundles):
            wanted = {model: "takes the segments of" for _, model in bundle.dicom.predecessors} | dict.fromkeys(rule.after, "runs after")
            found += [
                f"rule '{rule.name}': {bundle.name} {how} '{each}', and no rule runs that"
                for each, how in wanted.items()
                if each not in run
            ]
            before.setdefault(bundle.name, set()).update(wanted)
    circle = _circle(before)
    return found + ([f"models wait for each other in a circle: {' after '.join(circle)}"] if circle else [])


def _circle(before: Mapping[str, set[str]]) -> list[str]:
    """The first circle, with its beginning at both ends; empty where there is none."""
    sound: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in sound:
            return []
        for each in sorted(before.get(name, ())):
            if circle := walk(each, [*path, name]):
                return circle
        sound.add(name)
        return []

    return next((circle for name in sorted(before) if (circle := walk(name, []))), [])
