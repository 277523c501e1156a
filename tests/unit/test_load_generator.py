"""The load generator sends what it says: new UIDs in place, the same bytes that are compared afterwards."""

from __future__ import annotations

import random
from io import BytesIO

import pydicom
import pytest

from benchmarks.instances import CT_IMAGE_STORAGE, KINDS, Identity, new_uid, part10, template
from benchmarks.load import Encoded, Plan, Wire, message, parse_response, run, send, store_command
from tests.dimse import receiver


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_instance_bears_its_uids_and_about_98_elements(kind: str) -> None:
    source = random.Random(3)
    one = Identity(kind, new_uid(source), new_uid(source), new_uid(source), 42)
    dataset = pydicom.dcmread(BytesIO(part10(template(kind).instance(one), CT_IMAGE_STORAGE, one.sop)))
    assert (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID) == (one.study, one.series, one.sop)
    assert int(dataset.InstanceNumber) == 42
    assert 95 <= len(dataset) <= 102


@pytest.mark.parametrize("length", [4096, 16384, 1 << 18])
def test_patching_in_place_makes_the_same_message_as_encoding_anew(length: int) -> None:
    encoded = Encoded(template("small"), length)
    for one in Plan("small", studies=2, per_study=2, seed=5).identities():
        anew = message(1, store_command(CT_IMAGE_STORAGE, one.sop), template("small").instance(one), length)
        assert encoded.address(one) == anew


@pytest.mark.parametrize("shape", ["studies", "association-each", "interleaved"])
def test_what_is_reported_as_acknowledged_arrived_as_sent(shape: str) -> None:
    with receiver() as node:
        report = send("127.0.0.1", node.port, Plan("small", shape, studies=3, per_study=4, called="NODE"))
        assert not report.error
        assert len(report.acknowledged) == 12
        for one in report.acknowledged:
            assert node.archive.instances[one.sop].data == template("small").instance(one)


def test_parallel_senders_never_send_the_same_instance() -> None:
    with receiver() as node:
        outcome = run("127.0.0.1", node.port, Plan("small", studies=1, per_study=5, called="NODE"), 2)
    assert not outcome.errors
    assert len({one.sop for one in outcome.acknowledged}) == 10


def test_a_refusal_is_reported_with_its_comment() -> None:
    with receiver() as node, Wire("127.0.0.1", node.port, called="NODE") as wire:
        one = next(Plan("small").identities())
        assert wire.store(template("small").instance(one), sop_instance=one.sop) == (0, "")
        status, comment = wire.store(template("small").instance(one)[:-2], sop_instance=one.sop)
    assert status >> 12 == 0xC
    assert comment
    assert parse_response(b"") == (-1, "")
