"""Anybody recovers the archive with tar: what it extracts from a segment, open or sealed, is what was received, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread

from storage.archive import Archive, Outcome
from tests.contract.test_archive import SOURCE, archive, disk, image, put, segments  # noqa: F401 - fixtures
from tests.datasets import CT, EXPLICIT
from tests.segments import listed


def extracted(path: Path, out: Path) -> dict[str, bytes]:
    """Every file that tar makes of a segment; it must be content."""
    out.mkdir()
    done = subprocess.run(["tar", "xf", path, "-C", out], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def begun(archive: Archive, data: bytes, uid: str, pieces: int) -> tuple[object, object]:  # noqa: F811
    session = archive.session(SOURCE)
    writer = session.begin(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT)
    step = len(data) // (pieces + 1)
    for number in range(pieces):
        writer.write([data[number * step : (number + 1) * step]])
    return session, writer


@pytest.mark.parametrize("length", [40_000, 3_000_000])
@pytest.mark.parametrize("sealed", [False, True])
def test_an_aborted_long_instance_and_a_short_one_after_it(archive: Archive, tmp_path: Path, length: int, sealed: bool) -> None:  # noqa: F811
    stored = dict([image(1)[::-1], image(3)[::-1]])
    put(archive, stored["1.2.1.1"], "1.2.1.1")
    (path,) = segments(archive)
    # The aborted one's pixels look like a member of a tar file.
    member = path.read_bytes()[: 512 * 8]
    long, uid = image(2, pixels=member * (length // len(member)))
    session, writer = begun(archive, long, uid, 5)
    assert list(extracted(path, tmp_path / "meanwhile")) == ["1.2.1/1.2.1.1.dcm"]
    writer.abandon()  # type: ignore[attr-defined]
    session.close()  # type: ignore[attr-defined]
    assert put(archive, stored["1.2.1.3"], "1.2.1.3").outcome is Outcome.STORED
    assert segments(archive) == [path]
    if sealed:
        assert archive.seal_study("1.2") == 1
    files = extracted(path, tmp_path / "out")
    assert sorted(files) == sorted(listed(path)) == ["1.2.1/1.2.1.1.dcm", "1.2.1/1.2.1.3.dcm"]
    for name, content in files.items():
        sop_uid = name.rpartition("/")[2].removesuffix(".dcm")
        assert content == archive.open_instance(sop_uid).read()
        assert content.endswith(stored[sop_uid])
        assert dcmread(tmp_path / "out" / name).SOPInstanceUID == sop_uid


def test_a_killed_long_instance_and_a_short_one_after_the_restart(archive: Archive, tmp_path: Path) -> None:  # noqa: F811
    put(archive, *image(1))
    (path,) = segments(archive)
    long, uid = image(2, pixels=b"\xaa" * 3_000_000)
    begun(archive, long, uid, 5)[1]._segment.close()  # type: ignore[attr-defined]
    archive.pool.close()
    assert list(extracted(path, tmp_path / "before")) == ["1.2.1/1.2.1.1.dcm"]
    archive.recover()
    put(archive, *image(3))
    assert sorted(extracted(path, tmp_path / "out")) == ["1.2.1/1.2.1.1.dcm", "1.2.1/1.2.1.3.dcm"]
    assert b"\xaa" * 100 not in path.read_bytes()
