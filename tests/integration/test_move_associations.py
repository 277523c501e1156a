"""The associations of one C-MOVE with its destination: opened again when lost, and more than one where one has no room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import AllStoragePresentationContexts

from storage.archive import Source
from tests.dimse import EXPLICIT
from tests.node import StepNode, peer, running, settings
from tests.retrieving import Received, destination, keys, move

CLIENT = '[[peer]]\nname = "client"\nae_title = "CLIENT"\n'
CLASSES = [str(each.abstract_syntax) for each in AllStoragePresentationContexts][:60]


def fill(node: StepNode, classes: list[str]) -> dict[str, bytes]:
    """Store an instance of each SOP class, in one series."""
    session = node.node.archive.session(Source(None, "TEST", "NODE", "127.0.0.1", "received"))
    stored = {}
    for number, sop_class in enumerate(classes, 1):
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID, ds.InstanceNumber = sop_class, f"1.2.3.1.{number}", number
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID, ds.Modality = "1.2.3", "1.2.3.1", "P1", "CT"
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, ds)
        stored[ds.SOPInstanceUID] = buffer.getvalue()
        writer = session.begin(sop_class_uid=sop_class, sop_instance_uid=ds.SOPInstanceUID, transfer_syntax_uid=EXPLICIT)
        writer.write([stored[ds.SOPInstanceUID]])
        assert writer.commit().outcome.name == "STORED"
    session.close()
    return stored


class Aborting(Received):
    """Aborts its first association at the fourth instance."""

    def store(self, event: Any) -> int:
        if self.associations == 1 and len(self.instances) == 3:
            event.assoc.abort()
            return 0
        return super().store(event)


@pytest.mark.parametrize("aborting", [False, True])
def test_more_contexts_than_one_association_has(aborting: bool, tmp_path: Path) -> None:
    received = Aborting() if aborting else Received()
    offered: list[list[tuple[str, tuple[str, ...]]]] = []
    requested = received.requested

    def note(event: Any) -> None:
        requested(event)
        offered.append(received.contexts)

    received.requested = note  # type: ignore[method-assign]
    with destination(received, [(each, [EXPLICIT]) for each in CLASSES]) as port:
        with running(settings(tmp_path / "node", more=CLIENT + peer("destination", port, title="DESTINATION"))) as node:
            stored = fill(node, CLASSES)
            answers = move(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), "DESTINATION")
    lost = [uid for uid in stored if uid not in received.instances]
    assert answers.failed == lost
    assert (answers.status.Status, answers.counts) == (0xB000 if aborting else 0, (None, 60 - len(lost), len(lost), 0))
    assert len(lost) == aborting  # the one under way, and no other
    assert {uid: data for uid, (_, data) in received.instances.items()} == {uid: stored[uid] for uid in stored if uid not in lost}
    assert received.associations == len(offered) == (3 if aborting else 2)
    assert max(map(len, offered)) <= 128
    # Each class was offered on one of them with a context for its stored syntax alone.
    assert {each for contexts in offered for each in contexts} >= {(each, (EXPLICIT,)) for each in CLASSES}


def test_a_destination_that_takes_none_of_the_first_gets_the_others(tmp_path: Path) -> None:
    received = Received()
    taken = CLASSES[-3:]
    with destination(received, [(each, [EXPLICIT]) for each in taken]) as port:
        with running(settings(tmp_path / "node", more=CLIENT + peer("destination", port, title="DESTINATION"))) as node:
            stored = fill(node, CLASSES)
            answers = move(node.port, keys("STUDY", StudyInstanceUID="1.2.3"), "DESTINATION")
    assert (answers.status.Status, answers.counts) == (0xB000, (None, 3, 57, 0))
    assert list(received.instances) == list(stored)[-3:]
