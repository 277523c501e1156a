"""STOW while the disk is full or read-only or the index is away: every instance says so in time, and service resumes by itself."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from storage.disk import Disk
from storage.errors import NoSpace, ReadOnly, StorageError
from storage.schema import instance
from tests.datasets import CT, dataset, part10
from tests.dimse import until
from tests.integration.test_bad_input_storage import FailingDisk
from tests.webserver import WebNode, value, web_node


def files(first: int, count: int = 6, *, pixels: bytes = b"\1\2" * 50) -> list[bytes]:
    made = []
    for number in range(first, first + count):
        sop = f"1.2.3.1.{number}"
        made.append(part10(dataset("1.2.3", "1.2.3.1", sop, pixels=pixels, number=number), CT, sop))
    return made


def count(web: WebNode) -> int:
    with web.node.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(instance)).scalar_one())


def all_refused(web: WebNode, sent: list[bytes]) -> None:
    answer = web.store(sent)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert [value(item, "00081197") for item in answer.json()["00081198"]["Value"]] == [0xA700] * len(sent)


@pytest.mark.parametrize("error", [NoSpace("no space left on device"), ReadOnly("read-only file system")])
def test_a_disk_that_takes_nothing(tmp_path: Path, error: StorageError) -> None:
    disk = FailingDisk()
    with web_node(tmp_path) as web:
        assert isinstance(web.node.archive.disk, Disk)
        web.node.archive.disk = web.node.archive.pool._disk = disk
        disk.error = error
        all_refused(web, files(1))
        all_refused(web, files(1, 1, pixels=bytes(2 << 20)))
        disk.error = None
        assert web.store(files(1)).status_code == 200
        assert count(web) == 6


def test_a_disk_that_becomes_full_in_the_middle(tmp_path: Path) -> None:
    disk = FailingDisk()
    with web_node(tmp_path) as web:
        web.node.archive.disk = web.node.archive.pool._disk = disk
        disk.error, disk.after = NoSpace("no space left on device"), 12_000
        answer = web.store(files(1, 20, pixels=bytes(2000)))
        assert answer.status_code == 202
        taken = len(answer.json()["00081199"]["Value"])
        assert 0 < taken < 20
        assert count(web) == taken
        assert {value(item, "00081197") for item in answer.json()["00081198"]["Value"]} == {0xA700}
        disk.error = None
        assert web.store(files(1, 20, pixels=bytes(2000))).status_code == 200
        assert count(web) == 20


def test_an_index_that_is_locked_for_long(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        assert web.store(files(1)).status_code == 200
        with closing(sqlite3.connect(tmp_path / "data" / "index.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            all_refused(web, files(7, 30))
            assert time.monotonic() - began < 20
            other.execute("ROLLBACK")
        assert web.store(files(7)).status_code == 200
        assert count(web) == 12


def test_an_index_that_is_gone_and_comes_back(tmp_path: Path) -> None:
    index = tmp_path / "data" / "index.sqlite"
    with web_node(tmp_path) as web:
        assert web.store(files(1)).status_code == 200
        kept = index.rename(tmp_path / "elsewhere")
        all_refused(web, files(7))
        kept.rename(index)
        until(lambda: web.store(files(7)).status_code == 200)
        assert count(web) == 12
