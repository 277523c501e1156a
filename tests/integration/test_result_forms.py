"""Peers get results in the forms of their profiles, each made and archived once; forms that nobody takes are not made."""

from __future__ import annotations

import contextlib
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicom_node.config import load
from dicom_node.errors import ConfigurationError
from dicom_node.results.forms import kind_of
from tests.node import StepNode, bright_series, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle

RLE, EXPLICIT = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1"


def results(node: StepNode, study_uid: str) -> Counter[str]:
    """How many results of each kind a node holds."""
    found = (kind_of(each.sop_class_uid) for each in node.node.archive.instances(study_uid))
    return Counter(kind for kind in found if kind)


def syntaxes(node: StepNode, study_uid: str) -> dict[str, str]:
    return {kind_of(each.sop_class_uid) or "": each.transfer_syntax_uid for each in node.node.archive.instances(study_uid)}


def test_every_peer_gets_its_forms_and_the_archive_one_of_each(tmp_path: Path) -> None:
    images: list[Dataset] = bright_series(WindowCenter=800, WindowWidth=1600)
    with contextlib.ExitStack() as stack:
        plain, viewer, splitting = (stack.enter_context(running(settings(tmp_path / name, title="PACS"))) for name in ("a", "b", "c"))
        tiny_bundle(tmp_path / "node" / "bundles")
        peers = peer("plain", plain.port)
        peers += peer("viewer", viewer.port, more='results = ["SR", "LABELMAP", "KO", "SC", "PR"]\ntransfer_syntaxes = ["rle"]')
        peers += peer("splitting", splitting.port, more='results = ["SEG", "SR", "SC_MULTIFRAME"]\nmax_frames = 1')
        node = stack.enter_context(running(settings(tmp_path / "node", more=peers + rule("plain", "viewer", "splitting"))))
        assert send(node, images, tmp_path / "files") == [0] * 6
        node.work()
        study = uid_of(images)
        assert results(plain, study) == {"SEG": 1, "SR": 1}
        assert results(viewer, study) == {"SR": 1, "LABELMAP": 1, "KO": 1, "SC": 1, "PR": 1}
        assert results(splitting, study) == {"SEG": 2, "SR": 1, "SC_MULTIFRAME": 2}
        assert results(node, study) == {"SEG": 3, "SR": 1, "LABELMAP": 1, "KO": 1, "SC": 1, "PR": 1, "SC_MULTIFRAME": 2}
        # In RLE what has pixels that RLE takes, all else as it is archived, where all is uncompressed.
        assert syntaxes(viewer, study) == {"SR": EXPLICIT, "KO": EXPLICIT, "PR": EXPLICIT, "LABELMAP": RLE, "SC": RLE}
        sent = next(each for each in viewer.node.archive.instances(study) if kind_of(each.sop_class_uid) == "SC")
        kept = node.node.archive.open_instance(sent.sop_uid)
        pictures = [dcmread(BytesIO(stored.read())).pixel_array for stored in (sent, kept)]
        assert (pictures[0] == pictures[1]).all()
        story = node.story(study).runs[0]
        told = {(each.delivery.peer, each.delivery.form): (each.delivery.state, len(each.instances)) for each in story.deliveries}
        assert told == {
            ("plain", "SEG"): ("DELIVERED", 1),
            ("plain", "SR"): ("DELIVERED", 1),
            ("viewer", "SEG"): ("NOT_TAKEN", 1),  # which its profile does not name
            **{("viewer", form): ("DELIVERED", 1) for form in ("SR", "LABELMAP", "KO", "SC", "PR")},
            ("splitting", "SEG"): ("DELIVERED", 2),
            ("splitting", "SR"): ("DELIVERED", 1),
            ("splitting", "SC_MULTIFRAME"): ("DELIVERED", 2),
        }
        assert {each.instances[0].state for each in story.deliveries if each.delivery.state == "NOT_TAKEN"} == {"NOT_OFFERED"}


def test_what_the_archive_keeps_is_made_though_no_peer_takes_it(tmp_path: Path) -> None:
    images = bright_series()
    tiny_bundle(tmp_path / "node" / "bundles")
    config = settings(tmp_path / "node", more=rule())
    file = tmp_path / "node" / "node.toml"
    file.write_text(file.read_text().replace("[archive]", '[archive]\nresults = ["SC"]'))
    assert config.archive.results == ()
    with running(load(file)) as node:
        send(node, images, tmp_path / "files")
        node.work()
        assert results(node, uid_of(images)) == {"SEG": 1, "SR": 1, "SC": 1}


def test_forms_that_only_other_rules_send_cost_nothing(tmp_path: Path) -> None:
    images = bright_series()
    tiny_bundle(tmp_path / "node" / "bundles")
    with running(settings(tmp_path / "pacs", title="PACS")) as pacs:
        peers = peer("pacs", pacs.port) + peer("elsewhere", pacs.port, more='results = ["SC", "PR", "KO", "LABELMAP"]')
        with running(settings(tmp_path / "node", more=peers + rule("pacs"))) as node:
            send(node, images, tmp_path / "files")
            node.work()
            assert results(node, uid_of(images)) == {"SEG": 1, "SR": 1}


def test_a_kind_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LABELMAP"):
        settings(tmp_path, more=peer("pacs", 104, more='results = ["LABELMAPS"]'))
