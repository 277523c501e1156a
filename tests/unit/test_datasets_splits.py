"""Parts by subject: complete, balanced, the same for the same seed, and never with a subject in two."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.datasets.collection import Collection, DataSetRefused
from models.datasets.manifest import read_manifest, write_manifest
from models.datasets.pairs import Pairs, read_pairs
from models.datasets.protocol import Box, Item
from models.datasets.splits import Leak, from_attributes, read_split, split, write_split
from tests.pictures import lungs

NOWHERE = (Path("image.png"),)


def data(subjects: list[tuple[str, dict[str, float]]], classes: tuple[str, ...] = ()) -> Collection:
    items = [Item(f"i{number}", who, NOWHERE, labels=labels) for number, (who, labels) in enumerate(subjects)]
    return Collection("made", "classification", classes, tuple(items))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.0, 1.0]))), min_size=1, max_size=80),
    st.integers(0, 5),
)
def test_every_item_is_in_one_part_with_all_of_its_subject(rows: list[tuple[int, dict[str, float]]], seed: int) -> None:
    whole = data([(f"s{who}", labels) for who, labels in rows])
    subjects = {item.subject for item in whole}
    by = "label" if any(item.labels for item in whole) else None
    if len(subjects) < 3:
        with pytest.raises(DataSetRefused, match="for 3 parts"):
            split(whole, seed=seed, stratify_by=by)
        return
    parts = split(whole, seed=seed, stratify_by=by)
    assert set(parts) == {item.id for item in whole}
    assert set(parts.values()) == {"train", "validation", "test"}
    homes = {item.subject: set() for item in whole}
    for item in whole:
        homes[item.subject].add(parts[item.id])
    assert all(len(each) == 1 for each in homes.values())
    assert parts == split(Collection("made", "none", (), tuple(reversed(whole.items))), seed=seed, stratify_by=by)


def test_another_seed_is_another_split_and_the_shares_hold() -> None:
    whole = data([(f"s{number}", {}) for number in range(100)])
    first, other = split(whole, seed=1), split(whole, seed=2)
    assert Counter(first.values()) == {"train": 60, "validation": 15, "test": 25}
    assert first != other


def test_rare_labels_are_dealt_to_every_part() -> None:
    whole = data([(f"s{number}", {"rare": float(number < 8), "common": float(number % 2)}) for number in range(100)])
    parts = split(whole, {"train": 0.5, "validation": 0.25, "test": 0.25}, stratify_by="label")
    rare = Counter(parts[item.id] for item in whole if item.labels["rare"])
    common = Counter(parts[item.id] for item in whole if item.labels["common"])
    assert rare == {"train": 4, "validation": 2, "test": 2}
    assert all(abs(common[part] - share) <= 1 for part, share in (("train", 25), ("validation", 12.5), ("test", 12.5)))


def test_what_is_missing_to_one_is_in_no_part() -> None:
    parts = split(data([(f"s{number}", {}) for number in range(40)]), {"train": 0.25, "test": 0.25})
    assert Counter(parts.values()) == {"train": 10, "test": 10}


def test_numbers_are_stratified_in_bands() -> None:
    items = [Item(f"i{age}", f"s{age}", NOWHERE, attributes={"age": float(age)}) for age in range(80)]
    parts = split(Collection("made", "none", (), tuple(items)), {"train": 0.5, "test": 0.5}, stratify_by="age")
    assert sum(parts[f"i{age}"] == "train" for age in range(40)) == 20
    assert sum(parts[f"i{age}"] == "train" for age in range(20)) == 10


def test_masks_are_stratified_by_their_size(tmp_path: Path) -> None:
    whole = read_pairs(lungs(tmp_path, 24), Pairs(classes=("lung",)))
    parts = split(whole, {"train": 0.5, "test": 0.5}, stratify_by="mask")
    large = [item.id for number, item in enumerate(whole) if number % 12 >= 9]
    assert Counter(parts[each] for each in large) == {"train": 3, "test": 3}


@pytest.mark.parametrize(
    ("fractions", "by", "reason"),
    [
        ({"train": 0.9, "test": 0.9}, None, "add up to at most 1"),
        ({"train": -1.0, "test": 0.9}, None, "shares are positive"),
        ({"training": 1.0}, None, "'training' is no part"),
        ({"train": 0.5, "test": 0.5}, "site", "no item has 'site' to stratify by"),
        ({"train": 0.5, "test": 0.5}, "mask", "there are no masks"),
    ],
)
def test_what_makes_no_split(fractions: dict[str, float], by: str | None, reason: str) -> None:
    with pytest.raises(DataSetRefused, match=reason):
        split(data([(f"s{number}", {"a": 1.0}) for number in range(9)]), fractions, stratify_by=by)


def test_one_subject_and_an_empty_class_are_refused() -> None:
    with pytest.raises(DataSetRefused, match="1 subject for 3 parts"):
        split(data([("s1", {"a": 1.0})] * 5))
    with pytest.raises(DataSetRefused, match="a class without examples: b;"):
        split(data([(f"s{number}", {"a": 1.0, "b": 0.0}) for number in range(9)], ("a", "b")))


def test_a_stored_split_is_read_back(tmp_path: Path) -> None:
    whole = data([(f"s{number // 2}", {"a": float(number % 2)}) for number in range(20)])
    parts = split(whole, seed=3, stratify_by="label")
    kept = write_split(tmp_path / "split.json", whole, parts, seed=3, stratify_by="label")
    assert read_split(tmp_path / "split.json", whole) == kept
    assert kept.parts == parts
    assert sum(kept.counts.values()) == 20


def test_a_split_with_a_subject_in_two_parts_is_refused(tmp_path: Path) -> None:
    whole = data([("s1", {}), ("s1", {}), ("s2", {}), ("s3", {})])
    leaking = {"i0": "train", "i1": "test", "i2": "validation"}
    with pytest.raises(Leak, match="a subject is in one part only"):
        write_split(tmp_path / "split.json", whole, leaking)  # type: ignore[arg-type]
    assert not (tmp_path / "split.json").exists()
    write_split(tmp_path / "split.json", whole, {"i0": "train", "i1": "train", "i2": "test"})
    content = json.loads((tmp_path / "split.json").read_text())
    content["parts"] = {"train": ["i0"], "validation": ["i1"], "test": ["i2"]}
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(Leak, match="i1"):
        read_split(tmp_path / "split.json", whole)
    content["parts"] = {"train": ["i0", "i1"], "test": ["i1", "i2"]}
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(Leak, match="item i1 is in two parts"):
        read_split(tmp_path / "split.json", whole)


def test_a_split_of_other_data_is_refused(tmp_path: Path) -> None:
    whole = data([(f"s{number}", {"a": 1.0}) for number in range(9)])
    write_split(tmp_path / "split.json", whole, split(whole))
    relabelled = data([(f"s{number}", {"a": 0.0}) for number in range(9)])
    with pytest.raises(DataSetRefused, match="made of other data"):
        read_split(tmp_path / "split.json", relabelled)
    assert len(read_split(tmp_path / "split.json", relabelled, other_data=True).parts) == 9
    (tmp_path / "split.json").write_text("[]")
    with pytest.raises(DataSetRefused, match="no split"):
        read_split(tmp_path / "split.json", whole)


def test_the_split_that_a_data_set_states() -> None:
    items = [Item(f"i{n}", f"s{n}", NOWHERE, attributes={"split": word}) for n, word in enumerate(("TRAIN", "validate", "test", "extra"))]
    assert from_attributes(Collection("made", "none", (), tuple(items))) == {"i0": "train", "i1": "validation", "i2": "test"}
    with pytest.raises(DataSetRefused, match="no split of its own"):
        from_attributes(data([("s", {})]))


def test_a_manifest_says_the_same_as_its_data_set(tmp_path: Path) -> None:
    whole = read_pairs(lungs(tmp_path / "lungs", 4), Pairs(classes=("lung",), name=r"(?P<subject>film_\d+)_\d_(?P<state>[01])"))
    boxed = Item("box", "s", whole.items[0].image, labels={"a": 1.0}, boxes=(Box("cell", 0.0, 1.0, 2.5, 4.0, difficult=True),))
    write_manifest(tmp_path / "lists" / "lungs.jsonl", whole, [*whole, boxed])
    assert "../lungs/images/film_000_0_0.png" in (tmp_path / "lists" / "lungs.jsonl").read_text()
    found = read_manifest(tmp_path / "lists" / "lungs.jsonl")
    resolved = [tuple(path.resolve() for path in item.image) for item in found]
    assert resolved == [tuple(path.resolve() for path in item.image) for item in (*whole, boxed)]
    assert found.items[-1].boxes == boxed.boxes
    assert [(item.id, item.subject, item.attributes, item.provenance) for item in found.items[:-1]] == [
        (item.id, item.subject, item.attributes, item.provenance) for item in whole
    ]
    assert (found.name, found.task, found.classes) == (whole.name, whole.task, whole.classes)


def test_rows_of_a_manifest_that_say_nothing_usable_are_skipped(tmp_path: Path) -> None:
    lungs(tmp_path, 1)
    empty = '"boxes": [{"label": "x", "x_min": 2, "y_min": 0, "x_max": 2, "y_max": 1}]'
    rows = [
        '{"schema": 1, "name": "x", "task": "none", "classes": []}',
        '{"id": "a", "subject": "s", "image": ["images/film_000_0_0.png"]}',
        "{",
        '{"id": "b", "image": ["images/film_000_0_0.png"]}',
        '{"id": "c", "subject": "s", "image": ["images/gone.png"]}',
        '{"id": "d", "subject": "s", "image": ["images/film_000_0_0.png"], "colour": 1}',
        '{"id": "e", "subject": "s", "image": []}',
        '{"id": "a", "subject": "s", "image": ["images/film_000_0_0.png"]}',
        '{"id": "f", "subject": "s", "image": ["images/film_000_0_0.png"], ' + empty + "}",
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(rows))
    found = read_manifest(tmp_path / "x.jsonl")
    assert [item.id for item in found] == ["a"]
    assert {each.row: each.reason for each in found.skipped} == {
        "line 3": "it is no JSON",
        "line 4": "it is no record of an item",
        "line 5": "there is no file gone.png",
        "line 6": "unknown key 'colour'",
        "line 7": "it names no image",
        "a": "there is another item with the id a",
        "line 9": "a box has no area",
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2, "name": "x", "task": "none", "classes": []}', "\xff"])
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.jsonl").write_text(text, encoding="latin-1")
    with pytest.raises(DataSetRefused, match=r"x\.jsonl"):
        read_manifest(tmp_path / "x.jsonl")
