"""What is wrong with a data set, from one look at every image. Nothing is deleted: what should not be learnt from is
left out of the cleaned manifest, the rest is named for a person to look at.

    unreadable        a file is missing, broken, has values that are no numbers, or its mask does not fit       left out
    blank             all pixels alike, or nearly                                                               left out
    exact-duplicate   the same pixels as an earlier item, and the same labels                                   left out
    label-conflict    the same pixels under different labels: all of them; a label that its boxes contradict    left out
    wrong-kind        another modality than asked for or than nearly all, or a volume among pictures            left out
    box-outside       a box that is outside of its image                                                        left out
    near-duplicate    nearly the same picture: perceptual hash, then correlation                                to be looked at
    clipped           many pixels at the highest or the lowest value                                            to be looked at
    other-scale       intensities far from those of the others (a factor of thirty)                             to be looked at
    orientation       other axes than nearly all volumes; a picture that is turned, mirrored or inverted        to be looked at
    mask              an empty mask, or one that states another place than its image                            to be looked at
    small-box         a box of less than two pixels                                                             to be looked at
    subject-conflict  a subject with two sexes                                                                  to be looked at
    leak              a subject, or a picture, in two parts of the split                                        to be looked at
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log10
from statistics import median

from models.datasets.alike import Alike, alike, turned
from models.datasets.protocol import DataSet, Item
from models.datasets.survey import Look

LEFT_OUT = ("unreadable", "blank", "exact-duplicate", "label-conflict", "wrong-kind", "box-outside")
LOOK_AT = ("near-duplicate", "clipped", "other-scale", "orientation", "mask", "small-box", "subject-conflict", "leak")
KINDS = (*LEFT_OUT, *LOOK_AT)

#: What nearly all items have in common is what is right, where so large a share of them have it.
NEARLY_ALL = 0.9
TOO_BRIGHT = 0.10
TOO_DARK = 0.70
SCALE = 1.5


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: ``items`` are concerned, ``left_out`` are those that the cleaned manifest does not have."""

    kind: str
    items: tuple[str, ...]
    reason: str
    where: str
    row: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What is asked for.

    Parameters
    ----------
    modalities
        The right ones; where none is named, the one that nearly all images have.
    leave_out
        Kinds of findings whose items are left out.
    bits
        Perceptual hashes that differ in at most so many of their 64 bits are compared further.
    likeness
        Correlation from which two pictures are nearly the same.
    """

    modalities: tuple[str, ...] = ()
    leave_out: frozenset[str] = frozenset(LEFT_OUT)
    bits: int = 8
    likeness: float = 0.98


@dataclass(frozen=True)
class Cleaned:
    """What was found, and the ids that stay, in their order."""

    findings: tuple[Finding, ...]
    kept: tuple[str, ...]
    looked_at: int
    counts: Mapping[str, int] = field(default_factory=dict)


def clean(dataset: DataSet, looks: Mapping[str, Look], rules: Rules | None = None, parts: Mapping[str, str] | None = None) -> Cleaned:
    """Judge what was looked at; items without a look are kept.

    Parameters
    ----------
    parts
        Item id to part of a split, to find what is in two of them.
    """
    chosen = rules or Rules()
    items = [item for item in dataset if item.id in looks]
    good = [item for item in items if looks[item.id].problem is None]
    findings = [*_unreadable(items, looks), *_blank(good, looks)]
    gone = {each for finding in findings for each in finding.items}
    sound = [item for item in good if item.id not in gone]
    pairs = alike([(item.id, looks[item.id]) for item in sound], bits=chosen.bits, least=chosen.likeness)
    findings += [
        *_duplicates(sound, looks),
        *_near(sound, pairs),
        *_kinds(sound, looks, chosen.modalities),
        *_intensities(sound, looks),
        *_orientations(sound, looks),
        *_masks(sound, looks, dataset),
        *_boxes(sound, looks),
        *_labels(sound),
        *_leaks(items, looks, pairs, parts or {}),
    ]
    findings = [_decided(finding, chosen) for finding in findings]
    out = {each for finding in findings for each in finding.left_out}
    counts = Counter(finding.kind for finding in findings)
    return Cleaned(
        tuple(sorted(findings, key=lambda each: KINDS.index(each.kind))),
        tuple(item.id for item in dataset if item.id not in out),
        len(items),
        {kind: counts[kind] for kind in KINDS if counts[kind]},
    )


def _decided(finding: Finding, rules: Rules) -> Finding:
    """A finding whose items are left out, or not, as the rules say."""
    if finding.kind not in rules.leave_out:
        return Finding(finding.kind, finding.items, finding.reason, finding.where, finding.row)
    left_out = finding.left_out or finding.items
    return Finding(finding.kind, finding.items, finding.reason, finding.where, finding.row, left_out)


def _found(kind: str, item: Item, reason: str, *others: Item, left_out: Sequence[Item] = ()) -> Finding:
    where = str(item.image[0]) if item.image else item.id
    ids = tuple(each.id for each in (item, *others))
    return Finding(kind, ids, reason, where, item.provenance.get("row", item.id), tuple(each.id for each in left_out))


def _unreadable(items: Sequence[Item], looks: Mapping[str, Look]) -> Iterator[Finding]:
    for item in items:
        problem = looks[item.id].problem
        if problem is not None:
            yield Finding("unreadable", (item.id,), problem.reason, problem.where, problem.row)


def _blank(items: Sequence[Item], looks: Mapping[str, Look]) -> Iterator[Finding]:
    for item in items:
        numbers = looks[item.id].numbers
        if numbers["intensity.p00"] == numbers["intensity.p100"]:
            yield _found("blank", item, f"all pixels have the value {numbers['intensity.p00']:g}")
        elif numbers["intensity.p01"] == numbers["intensity.p99"]:
            yield _found("blank", item, f"nearly all pixels have the value {numbers['intensity.p50']:g}")


def _duplicates(items: Sequence[Item], looks: Mapping[str, Look]) -> Iterator[Finding]:
    """Items with the same pixels: of equal ones the first stays; of contradicting ones nobody knows which is right."""
    together: dict[str, list[Item]] = {}
    for item in items:
        together.setdefault(looks[item.id].pixels, []).append(item)
    for same in together.values():
        if len(same) == 1:
            continue
        first, *later = same
        who = "the same subject" if len({item.subject for item in same}) == 1 else f"{len({item.subject for item in same})} subjects"
        if len({_truth(item, looks[item.id]) for item in same}) > 1:
            reason = f"{len(same)} items of {who} have the same pixels and different {_difference(same, looks)}"
            yield _found("label-conflict", first, reason, *later, left_out=same)
        else:
            yield _found(
                "exact-duplicate", first, f"{len(same)} items of {who} have the same pixels; the first stays", *later, left_out=later
            )


def _truth(item: Item, look: Look) -> str:
    return repr((sorted(item.labels.items()), sorted(map(repr, item.boxes)), look.mask_digest))


def _difference(items: Sequence[Item], looks: Mapping[str, Look]) -> str:
    names = {name for item in items for name in item.labels}
    differing = sorted(name for name in names if len({item.labels.get(name) for item in items}) > 1)
    parts = [f"labels ({', '.join(differing)})"] if differing else []
    parts += ["boxes"] if len({item.boxes for item in items}) > 1 else []
    parts += ["masks"] if len({looks[item.id].mask_digest for item in items}) > 1 else []
    return " and ".join(parts) or "labels"


def _near(items: Sequence[Item], pairs: Iterable[Alike]) -> Iterator[Finding]:
    by_id = {item.id: item for item in items}
    for pair in pairs:
        if pair.exact:
            continue
        first, second = by_id[pair.first], by_id[pair.second]
        who = "of the same subject" if first.subject == second.subject else "of different subjects"
        yield _found(
            "near-duplicate",
            first,
            f"nearly the same picture as {second.id}, {who} (correlation {pair.likeness:.3f})",
            second,
            left_out=[second],
        )


def _common(values: Sequence[str]) -> str | None:
    """What nearly all have, where there is such a thing."""
    value, count = Counter(values).most_common(1)[0] if values else ("", 0)
    return value if values and count >= NEARLY_ALL * len(values) and count < len(values) else None


def _kinds(items: Sequence[Item], looks: Mapping[str, Look], modalities: Sequence[str]) -> Iterator[Finding]:
    modality = {item.id: looks[item.id].words.get("modality") or str(item.attributes.get("modality", "")) for item in items}
    known = [value for value in modality.values() if value]
    right = tuple(modalities) or tuple(filter(None, [_common(known)]))
    for item in items:
        if right and modality[item.id] and modality[item.id] not in right:
            yield _found("wrong-kind", item, f"its modality is {modality[item.id]}, not {' or '.join(right)}")
    axes = {item.id: "a volume" if looks[item.id].orientation else "a picture" for item in items}
    usual = _common(list(axes.values()))
    for item in items:
        if usual and axes[item.id] != usual:
            yield _found("wrong-kind", item, f"it is {axes[item.id]}; nearly all others are {usual.split()[1]}s")
    colours = {item.id: "colour" if looks[item.id].numbers["channels"] > 1 else "grey" for item in items}
    usual = _common(list(colours.values()))
    for item in items:
        if usual and colours[item.id] != usual:
            yield _found("wrong-kind", item, f"it is in {colours[item.id]}; nearly all others are in {usual}")


def _intensities(items: Sequence[Item], looks: Mapping[str, Look]) -> Iterator[Finding]:
    ranges = {}
    for item in items:
        numbers = looks[item.id].numbers
        if numbers["at_maximum"] > TOO_BRIGHT:
            yield _found(
                "clipped", item, f"{numbers['at_maximum']:.0%} of the pixels have the highest value, {numbers['intensity.p100']:g}"
            )
        if numbers["at_minimum"] > TOO_DARK:
            yield _found("clipped", item, f"{numbers['at_minimum']:.0%} of the pixels have the lowest value, {numbers['intensity.p00']:g}")
        ranges[item.id] = log10(max(numbers["intensity.p99"] - numbers["intensity.p01"], 1e-12))
    usual = median(ranges.values()) if ranges else 0.0
    for item in items:
        if abs(ranges[item.id] - usual) > SCALE:
            yield _found(
                "other-scale", item, f"its values span {10 ** ranges[item.id]:.3g}, those of half of the others about {10**usual:.3g}"
            )


def _orientations(items: Sequence[Item], looks: Mapping[str, Look]) -> Iterator[Finding]:
    usual = _common([looks[item.id].orientation for item in items if looks[item.id].orientation])
    for item in items:
        axes = looks[item.id].orientation
        if usual and axes and axes != usual:
            yield _found("orientation", item, f"its axes point to {axes}, those of nearly all others to {usual}")
    by_id = {item.id: item for item in items}
    for identifier, how in turned([(item.id, looks[item.id]) for item in items if not looks[item.id].orientation]):
        yield _found("orientation", by_id[identifier], f"it fits the mean of all pictures better {how}")


def _masks(items: Sequence[Item], looks: Mapping[str, Look], dataset: DataSet) -> Iterator[Finding]:
    for item in items:
        if item.mask is None:
            continue
        if looks[item.id].other_grid:
            yield _found("mask", item, "the mask states another place in the patient than the image")
        if not looks[item.id].voxels:
            yield _found("mask", item, "the mask is empty")
        missing = [name for value, name in enumerate(dataset.classes, start=1) if str(value) not in looks[item.id].voxels]
        having = sum(1 for name in dataset.classes if name not in missing)
        if missing and having:
            yield _found("mask", item, f"the mask has no {', '.join(missing)}")


def _boxes(items: Sequence[Item], looks: Mapping[str, Look]) -> Iterator[Finding]:
    for item in items:
        numbers = looks[item.id].numbers
        width, height = numbers["size.x"], numbers["size.y"]
        for number, box in enumerate(item.boxes, start=1):
            place = f"box {number} ({box.label}, {box.x_min:g}, {box.y_min:g} to {box.x_max:g}, {box.y_max:g})"
            if box.x_min < 0 or box.y_min < 0 or box.x_max > width or box.y_max > height:
                yield _found("box-outside", item, f"{place} is outside of the image of {width:g}x{height:g} pixels")
            elif min(box.x_max - box.x_min, box.y_max - box.y_min) < 2:
                yield _found("small-box", item, f"{place} is less than two pixels wide")


def _labels(items: Sequence[Item]) -> Iterator[Finding]:
    for item in items:
        denied = sorted({box.label for box in item.boxes if item.labels.get(box.label) == 0})
        if denied:
            yield _found("label-conflict", item, f"it has a box of {', '.join(denied)} and a label that denies it")
    subjects: dict[str, list[Item]] = {}
    for item in items:
        if "sex" in item.attributes:
            subjects.setdefault(item.subject, []).append(item)
    for same in subjects.values():
        sexes = sorted({str(item.attributes["sex"]) for item in same})
        if len(sexes) > 1:
            yield _found("subject-conflict", same[0], f"the subject of {len(same)} items is {' and '.join(sexes)}", *same[1:])


def _leaks(items: Sequence[Item], looks: Mapping[str, Look], pairs: Sequence[Alike], parts: Mapping[str, str]) -> Iterator[Finding]:
    by_id = {item.id: item for item in items}
    subjects: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        if item.id in parts:
            subjects.setdefault(item.subject, {}).setdefault(parts[item.id], []).append(item)
    for found in subjects.values():
        if len(found) > 1:
            counted = ", ".join(f"{len(same)} in {part}" for part, same in sorted(found.items()))
            first, *others = [item for same in found.values() for item in same]
            yield _found("leak", first, f"a subject is in {len(found)} parts: {counted}", *others)
    for pair in pairs:
        one, other = parts.get(pair.first), parts.get(pair.second)
        if one and other and one != other and by_id[pair.first].subject != by_id[pair.second].subject:
            how = "the same" if pair.exact else "nearly the same"
            yield _found("leak", by_id[pair.first], f"{how} picture is in {one} and, as {pair.second}, in {other}", by_id[pair.second])
