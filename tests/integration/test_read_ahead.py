"""Reading ahead: order, what cannot be read, the end in the middle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.dimse.services.read_ahead import READERS, ReadAhead, Ready, Unready
from dicom_node.dimse.suboperations import Outbound
from dicom_node.retrieve import SequentialReader
from storage.archive import StoredInstance
from storage.errors import Damaged
from storage.retrieval import UniqueKeys, select_instances
from tests.dimse import until
from tests.integration.test_retrieve import fill
from tests.node import StepNode, running, settings


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StepNode]:
    with running(settings(tmp_path / "node")) as node:
        yield node


def outbound(reader: SequentialReader, stored: StoredInstance) -> Outbound:
    loaded = reader.load(stored)
    return Outbound(stored.sop_class_uid, stored.sop_uid, stored.transfer_syntax_uid, loaded.length, loaded.chunks())


def test_every_instance_in_order_and_whole(node: StepNode) -> None:
    stored = fill(node, 20)
    instances = select_instances(node.node.archive, UniqueKeys(study_uids=("1.2.3",)))
    ahead = ReadAhead(node.node.archive, instances, outbound)
    seen = {}
    for item in ahead:
        assert isinstance(item, Ready)
        seen[item.stored.sop_uid] = b"".join(item.outbound.chunks)
        ahead.sent(item)
    ahead.close()
    assert list(seen) == [each.sop_uid for each in instances]
    assert seen == stored


def test_no_more_is_read_than_there_are_buffers(node: StepNode) -> None:
    fill(node, 10)
    prepared: list[str] = []

    def prepare(reader: SequentialReader, stored: StoredInstance) -> Outbound:
        prepared.append(stored.sop_uid)
        return outbound(reader, stored)

    ahead = ReadAhead(node.node.archive, select_instances(node.node.archive, UniqueKeys(study_uids=("1.2.3",))), prepare)
    items = iter(ahead)
    first, second = next(items), next(items)
    assert isinstance(first, Ready)
    assert isinstance(second, Ready)
    assert len(prepared) == READERS
    assert first.reader is not second.reader
    ahead.sent(first)
    until(lambda: len(prepared) == READERS + 1)
    ahead.close()
    assert len(prepared) == READERS + 1


def test_what_cannot_be_read_does_not_hold_the_others(node: StepNode) -> None:
    stored = fill(node, 9)
    bad = sorted(stored)[::2]

    def prepare(reader: SequentialReader, instance: StoredInstance) -> Outbound:
        if instance.sop_uid in bad:
            raise Damaged("it is damaged")
        return outbound(reader, instance)

    ahead = ReadAhead(node.node.archive, select_instances(node.node.archive, UniqueKeys(study_uids=("1.2.3",))), prepare)
    unready = []
    for item in ahead:
        if isinstance(item, Unready):
            unready.append((item.stored.sop_uid, item.why))
        else:
            ahead.sent(item)
    ahead.close()
    assert unready == [(uid, "it is damaged") for uid in bad]


def test_an_error_that_nobody_expects_reaches_who_asks(node: StepNode) -> None:
    fill(node, 5)

    def prepare(reader: SequentialReader, stored: StoredInstance) -> Outbound:
        if stored.sop_uid.endswith(".3"):
            raise MemoryError
        return outbound(reader, stored)

    ahead = ReadAhead(node.node.archive, select_instances(node.node.archive, UniqueKeys(study_uids=("1.2.3",))), prepare)
    items = iter(ahead)
    for _ in range(2):
        item = next(items)
        assert isinstance(item, Ready)
        ahead.sent(item)
    with pytest.raises(MemoryError):
        next(items)
    ahead.close()


@pytest.mark.parametrize("count", [1, 3])
def test_a_cancel_is_heard_while_the_first_instance_takes_long(node: StepNode, count: int) -> None:
    fill(node, count)
    begun, go_on, looks = threading.Event(), threading.Event(), []

    def prepare(reader: SequentialReader, stored: StoredInstance) -> Outbound:
        begun.set()
        assert go_on.wait(30)
        return outbound(reader, stored)

    def canceled() -> bool:
        looks.append(begun.wait(30))
        return len(looks) == 2

    instances = select_instances(node.node.archive, UniqueKeys(study_uids=("1.2.3",)))
    ahead = ReadAhead(node.node.archive, instances, prepare, canceled=canceled)
    assert list(ahead) == []  # although the first is not read yet
    assert looks == [True, True]
    go_on.set()
    ahead.close()
