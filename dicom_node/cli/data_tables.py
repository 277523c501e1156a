"""How ``data describe`` shows a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dicom_node.cli import output

if TYPE_CHECKING:
    from models.datasets.describe import Balance, Description, Group

NUMBERS = {
    "size.x": "columns",
    "size.y": "rows",
    "size.z": "slices",
    "spacing.x": "mm between columns",
    "spacing.y": "mm between rows",
    "spacing.z": "mm between slices",
    "channels": "channels",
    "intensity.p01": "intensity, 1st percentile",
    "intensity.p50": "intensity, median",
    "intensity.p99": "intensity, 99th percentile",
    "age": "age in years",
}


def show(found: Description) -> None:
    """Print a description."""
    low, middle, high = found.items_per_subject
    output.line(f"{found.name}: {found.task if found.task != 'none' else 'images without labels'}")
    output.line(f"  {found.items} items of {found.subjects} subjects ({low} to {high} each, median {middle:g})")
    output.line(
        f"  {len(found.skipped)} skipped by the reader, {len(found.unreadable)} unreadable, fingerprint {found.fingerprint.digest[:16]}"
    )
    if found.looked_at < found.items:
        output.line(f"  {found.looked_at} of {found.items} looked at")
    _numbers(found)
    if found.balance:
        _balance(found.balance)
    labels = [each.label for each in sorted(found.balance, key=lambda each: -each.items)][:6]  # a table of more is too wide
    _groups({**found.parts, **found.groups}, labels)
    for each in found.unreadable[:10]:
        output.line(f"unreadable: {each.where}, {each.row}: {each.reason}")
    for concern in found.concerns:
        output.line(f"note: {concern}")


def _numbers(found: Description) -> None:
    rows = []
    for name, words in NUMBERS.items():
        spread = found.fingerprint.numbers.get(name)
        if spread is not None and not (name == "channels" and spread.deciles[0] == spread.deciles[-1] == 1):
            rows.append((words, _figure(spread.deciles[0]), _figure(spread.deciles[5]), _figure(spread.deciles[-1])))
    if rows:
        output.table(("images", "lowest", "median", "highest"), rows)


def _balance(balance: Sequence[Balance]) -> None:
    unit = next((each.unit for each in balance if each.unit), "")
    rows = []
    for each in balance:
        size = ("", "", "") if each.size is None else tuple(_figure(value) for value in each.size)
        objects = "" if each.objects is None else str(each.objects)
        rows.append((each.label, each.items, each.subjects, each.without, f"{each.share:.1%}", objects, *size))
    wide = any(row[5] for row in rows)
    headings = ["label", "items", "subjects", "without", "share", "boxes", f"smallest {unit}", f"median {unit}", f"largest {unit}"]
    kept = [index for index in range(9) if (index != 5 or wide) and (index < 6 or unit)]
    output.table([headings[index] for index in kept], [[row[index] for index in kept] for row in rows])


def _groups(attributes: Mapping[str, Sequence[Group]], labels: Sequence[str]) -> None:
    aged = any(group.age is not None for groups in attributes.values() for group in groups)
    headings = ["attribute", "value", "items", "subjects", *(["median age"] if aged else []), *labels]
    rows = []
    for name, groups in attributes.items():
        for group in groups:
            age = ["" if group.age is None else f"{group.age:g}"] if aged else []
            shares = (_part(group.labels.get(label, 0), group.items) for label in labels)
            rows.append([name, group.value, group.items, group.subjects, *age, *shares])
    if rows:
        output.table(headings, rows)


def _part(count: int, of: int) -> str:
    return f"{count} ({count / of:.0%})"


def _figure(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:,.0f}"
