"""Every kind of file goes in as it is and comes out by C-GET and C-MOVE: the same bytes, or the same pixels in another syntax."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from dicom_node.dimse.scu import StoreItem
from dicom_node.sending import store_item
from tests.dimse import EXPLICIT, IMPLICIT
from tests.node import StepNode, peer, running, settings
from tests.retrieving import Received, destination, get, keys, move, store_files

FOLDERS = ("transfer-syntax", "multiframe", "seg-sr-rt", "charsets")
CLIENT = '[[peer]]\nname = "client"\nae_title = "CLIENT"\n'
BIG, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
JPEG_LS, JPEG_2000, HTJ2K, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5"

# pydicom warns of values that are not what their VR allows; such are among the files.
pytestmark = [pytest.mark.real_data, pytest.mark.filterwarnings("ignore::UserWarning")]


def rounds(real_data: Path) -> Iterator[list[Path]]:
    """All files, in rounds in which each SOP Instance UID is there once: some files are one image in several syntaxes."""
    every = [(path, uid) for folder in FOLDERS for path in sorted((real_data / folder).rglob("*.dcm")) if (uid := uid_of(path))]
    assert len(every) > 50
    while every:
        chosen: dict[str, Path] = {}
        for path, uid in every:
            chosen.setdefault(uid, path)
        yield list(chosen.values())
        every = [(path, uid) for path, uid in every if chosen[uid] != path]


def uid_of(path: Path) -> str:
    """The SOP Instance UID inside a file; none where it is no Part 10 file, or a fragment without one."""
    if path.read_bytes()[128:132] != b"DICM":
        return ""
    return str(dcmread(path, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID", ""))


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StepNode]:
    with running(settings(tmp_path / "node", more=CLIENT)) as node:
        yield node


def dataset(data: bytes, syntax: str) -> Dataset:
    """A data set as pydicom reads it."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(syntax), UID("1.2"), UID("1.2.3")
    file = io.BytesIO()
    file.write(bytes(128) + b"DICM")
    write_file_meta_info(file, meta)
    file.write(data)
    file.seek(0)
    return dcmread(file)


def retrieve(node: StepNode, stored: dict[str, tuple[str, str, bytes]], offered: dict[str, list[str]]) -> Received:
    """Get everything by C-GET, a study at a time, a context for each class with the syntaxes offered for it."""
    studies = {node.node.archive.open_instance(uid).study_uid for uid in stored}
    received = Received()
    contexts = [(sop_class, [syntax]) for sop_class, syntaxes in offered.items() for syntax in syntaxes]
    answers, _ = get(node.port, keys("STUDY", StudyInstanceUID="\\".join(sorted(studies))), contexts, received)
    assert answers.counts == (None, len(stored), 0, 0), answers.failed
    return received


def test_as_stored_it_comes_out_byte_for_byte(tmp_path: Path, real_data: Path) -> None:
    for number, paths in enumerate(rounds(real_data)):
        with running(settings(tmp_path / str(number), more=CLIENT)) as node:
            stored = store_files(node.node.archive, paths)
            offered: dict[str, list[str]] = {}
            for sop_class, syntax, _ in stored.values():
                if syntax not in offered.setdefault(sop_class, []):
                    offered[sop_class].append(syntax)
            received = retrieve(node, stored, offered)
            assert received.instances == {uid: (syntax, data) for uid, (_, syntax, data) in stored.items()}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_is_not_taken_comes_uncompressed(syntax: str, tmp_path: Path, real_data: Path) -> None:
    for number, paths in enumerate(rounds(real_data)):
        with running(settings(tmp_path / str(number), more=CLIENT)) as node:
            stored = store_files(node.node.archive, paths)
            received = retrieve(node, stored, {sop_class: [syntax] for sop_class, _, _ in stored.values()})
            for uid, (_, source, data) in stored.items():
                got, out = received.instances[uid]
                assert got == syntax
                same(dataset(data, source), dataset(out, syntax), f"{uid} from {source}")


def same(before: Dataset, after: Dataset, what: str) -> None:
    """Elements and pixels are the same, but for those that a change of syntax changes."""
    changed = {0x7FE00010, 0x7FE00001, 0x7FE00002}
    if before.get("SamplesPerPixel", 1) > 1:
        changed |= {0x00280004, 0x00280006}
    for element in after:
        if element.tag not in changed and not element.tag.is_private and element.VR != "SQ":
            assert element.value == before[element.tag].value, (what, element.tag)
    missing = {element.tag for element in before if element.tag.element} - {element.tag for element in after} - changed
    assert not missing, (what, missing)
    try:
        expected = before.pixel_array if "PixelData" in before else None
    except (NotImplementedError, RuntimeError):  # pydicom has no decoder for it here: test_codecs has other references
        return
    if expected is not None:
        assert np.array_equal(after.pixel_array, expected), what


@pytest.mark.parametrize("syntax", [BIG, DEFLATED, JPEG_LS, JPEG_2000, HTJ2K, RLE])
def test_a_receiver_of_one_other_syntax_gets_it(syntax: str, node: StepNode, real_data: Path) -> None:
    original = real_data / "transfer-syntax" / "CTImage.dcm_JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm"
    reference = dcmread(next((real_data / "transfer-syntax").glob("*LittleEndianExplicit*"))).pixel_array
    stored = store_files(node.node.archive, [original])
    ((uid, (sop_class, _, _)),) = stored.items()
    received = retrieve(node, stored, {sop_class: [syntax]})
    got, data = received.instances[uid]
    assert got == syntax
    after = dataset(data, syntax)
    assert after.SOPInstanceUID == uid
    if syntax != HTJ2K:  # pydicom has no decoder for it here
        assert np.array_equal(after.pixel_array, reference)


def test_a_move_offers_what_is_stored_and_what_it_can_be(tmp_path: Path, real_data: Path) -> None:
    path = next((real_data / "transfer-syntax").glob("*JPEG2000LosslessOnly*"))
    item: StoreItem = store_item(path)
    received = Received()
    with destination(received, [(item.sop_class_uid, [IMPLICIT])]) as port:
        more = CLIENT + peer("destination", port, title="DESTINATION")
        with running(settings(tmp_path / "node", more=more)) as node:
            stored = store_files(node.node.archive, [path])
            study = node.node.archive.open_instance(item.sop_instance_uid).study_uid
            answers = move(node.port, keys("STUDY", StudyInstanceUID=study), "DESTINATION")
    assert answers.status.Status == 0
    assert received.contexts[0] == (item.sop_class_uid, (JPEG_2000,))
    assert len(received.contexts) <= 3
    got, data = received.instances[item.sop_instance_uid]
    assert got == IMPLICIT
    _, source, before = stored[item.sop_instance_uid]
    same(dataset(before, source), dataset(data, got), "moved")


def test_what_has_lost_something_is_never_compressed_again(node: StepNode, real_data: Path) -> None:
    path = next((real_data / "transfer-syntax").glob("*JPEGProcess1Transfer*"))
    stored = store_files(node.node.archive, [path])
    ((uid, (sop_class, _, _)),) = stored.items()
    study = node.node.archive.open_instance(uid).study_uid
    answers, received = get(node.port, keys("STUDY", StudyInstanceUID=study), [(sop_class, [JPEG_2000])])
    assert (answers.status.Status, answers.failed, received.instances) == (0xA702, [uid], {})
