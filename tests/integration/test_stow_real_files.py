"""Real and broken files by STOW: every one gets a clear answer, and what is taken is kept byte for byte."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from storage.part10 import NotDicom, read_part10_header
from tests.webserver import WebNode, multipart, value, web_node

FOLDERS = ("transfer-syntax", "multiframe", "seg-sr-rt", "charsets", "malformed", "fuzz")
SENSIBLE = frozenset({0xC000, 0xA900, 0x0122, 0xC122, 0xC001})
BATCH = 40


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".md", ".txt", ".json", ".xz", ".gz"))


def dataset_bytes(data: bytes) -> bytes | None:
    try:
        return data[read_part10_header(io.BytesIO(data)).dataset_offset :]
    except NotDicom:
        return None


def store(web: WebNode, paths: list[Path]) -> tuple[set[str], list[int]]:
    """Store files in one request: the UIDs that were taken, and the reasons why others were not."""
    files = [path.read_bytes() for path in paths]
    boundary = "".join(f"{number:02x}" for number in range(30))
    assert not any(boundary.encode() in file for file in files)
    answer = web.client.post(
        f"{web.url}/studies",
        content=multipart(files, boundary=boundary),
        headers={"Content-Type": f"multipart/related; type=application/dicom; boundary={boundary}"},
    )
    assert answer.status_code in (200, 202, 409), answer.text
    model = answer.json()
    taken = [value(item, "00081155") for item in model.get("00081199", {}).get("Value", [])]
    failed = [*model.get("00081198", {}).get("Value", []), *model.get("0008119A", {}).get("Value", [])]
    assert len(taken) + len(failed) == len(paths)
    return set(taken), [value(item, "00081197") for item in failed]


@pytest.mark.real_data
@pytest.mark.parametrize("name", FOLDERS)
def test_every_file_gets_a_clear_answer(tmp_path: Path, real_data: Path, name: str) -> None:
    paths = files_of(real_data / name)
    assert paths
    with web_node(tmp_path) as web:
        for start in range(0, len(paths), BATCH):
            taken, reasons = store(web, paths[start : start + BATCH])
            assert set(reasons) <= SENSIBLE
            originals = {dataset_bytes(path.read_bytes()) for path in paths[start : start + BATCH]}
            for uid in taken:
                assert sent_by(web, uid) in originals
            if name in ("transfer-syntax", "multiframe", "charsets", "seg-sr-rt"):
                assert taken
                assert 0xA900 not in reasons


def sent_by(web: WebNode, uid: str) -> bytes | None:
    """The data set of an instance as WADO-RS sends it, which is as it is stored."""
    stored = web.node.archive.open_instance(uid)
    path = f"/studies/{stored.study_uid}/series/{stored.series_uid}/instances/{uid}"
    answer = web.client.get(web.url + path, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert answer.status_code == 200
    assert answer.content == stored.read()
    return dataset_bytes(answer.content)


@pytest.mark.real_data
def test_all_of_the_character_sets_come_out_as_they_went_in(tmp_path: Path, real_data: Path) -> None:
    """One of them names another SOP Instance in its file meta than in its data set."""
    paths = [path for path in files_of(real_data / "charsets") if dataset_bytes(path.read_bytes())]
    names = [read_part10_header(io.BytesIO(path.read_bytes())).sop_instance_uid for path in paths]
    with web_node(tmp_path) as web:
        answers = [store(web, [path]) for path in paths]
        taken = {uid for uids, _ in answers for uid in uids}
        found = {sent_by(web, uid) for uid in taken}
    assert taken - set(names)
    assert found == {dataset_bytes(path.read_bytes()) for path, (uids, _) in zip(paths, answers) if uids}
    # Two files of other content have one UID; one names no study.
    assert sorted(reason for _, reasons in answers for reason in reasons) == [0xC000, 0xC001]
