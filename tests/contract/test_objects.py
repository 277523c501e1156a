"""What every store of sealed segments does, the same for each."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from storage.disk import Disk
from storage.errors import NoSpace, NotFound, ReadOnly
from storage.objects import LocalObjects, MemoryObjects, ObjectStore

NAME = "segments/1.2.3/a.tar"


@pytest.fixture(params=["local", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return LocalObjects(tmp_path) if request.param == "local" else MemoryObjects()


def test_ranges_of_what_was_put_come_back(objects: ObjectStore) -> None:
    data = bytes(range(256)) * 10_000
    assert objects.put(NAME, io.BytesIO(data)) == objects.size(NAME) == len(data)
    assert objects.read(NAME, 0, len(data)) == data
    assert objects.read(NAME, 1_000_003, 77) == data[1_000_003:1_000_080]
    assert objects.read(NAME, len(data) - 5, 100) == data[-5:]
    assert objects.read(NAME, len(data) + 5, 100) == b""


def test_a_second_put_replaces_the_first(objects: ObjectStore) -> None:
    objects.put(NAME, io.BytesIO(b"a long first one"))
    objects.put(NAME, io.BytesIO(b"second"))
    assert (objects.size(NAME), objects.read(NAME, 0, 100)) == (6, b"second")


def test_names_are_listed_in_order_below_a_prefix(objects: ObjectStore) -> None:
    for name in ("segments/2/b.tar", "segments/1/a.tar", "segments/2/a.tar", "other"):
        objects.put(name, io.BytesIO(b"x"))
    assert list(objects.names()) == ["other", "segments/1/a.tar", "segments/2/a.tar", "segments/2/b.tar"]
    assert list(objects.names("segments/2/")) == ["segments/2/a.tar", "segments/2/b.tar"]
    assert list(objects.names("none")) == []


def test_what_is_not_there_is_not_found(objects: ObjectStore) -> None:
    objects.put(NAME, io.BytesIO(b"x"))
    objects.delete(NAME)
    objects.delete(NAME)
    for name in (NAME, "segments/1.2.3", "none"):
        with pytest.raises(NotFound):
            objects.read(name, 0, 1)
    with pytest.raises(NotFound):
        objects.size(NAME)
    assert list(objects.names()) == []


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "."])
def test_a_name_leads_nowhere_else(objects: ObjectStore, name: str) -> None:
    with pytest.raises(NotFound):
        objects.put(name, io.BytesIO(b"x"))
    with pytest.raises(NotFound):
        objects.read(name, 0, 1)
    with pytest.raises(NotFound):
        objects.delete(name) if name else objects.size(name)


def test_a_put_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    class Full(Disk):
        def sync(self, descriptor: int) -> None:
            raise NoSpace("no space left in the archive")

    LocalObjects(tmp_path).put(NAME, io.BytesIO(b"first"))
    with pytest.raises(NoSpace):
        LocalObjects(tmp_path, Full()).put(NAME, io.BytesIO(b"second"))
    assert LocalObjects(tmp_path).read(NAME, 0, 100) == b"first"
    assert [path.name for path in (tmp_path / "segments" / "1.2.3").iterdir()] == ["a.tar"]


def test_a_root_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(ReadOnly):
        LocalObjects(tmp_path / "gone").put("a", io.BytesIO(b"x"))
    assert not (tmp_path / "gone").exists()
