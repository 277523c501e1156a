"""Bytes that rot on disk are found without anybody asking."""

from __future__ import annotations

from pathlib import Path

from tests.node import bright_series, running, send, settings, uid_of


def test_the_scrub_marks_what_no_longer_matches_its_digest(tmp_path: Path) -> None:
    images = bright_series()
    with running(settings(tmp_path / "node")) as node:
        assert send(node, images, tmp_path / "files") == [0] * 6
        first = node.node.archive.instances(uid_of(images))[0]
        with first.path.open("r+b") as file:
            file.seek(first.offset + first.length - 1)
            byte = file.read(1)[0]
            file.seek(first.offset + first.length - 1)
            file.write(bytes([byte ^ 0xFF]))
        assert node.duties.scrub()
        states = {each.sop_uid: each.status for each in node.node.archive.instances(uid_of(images))}
        assert states.pop(first.sop_uid) == "DAMAGED"
        assert set(states.values()) == {"OK"}
        assert not node.duties.scrub(), "not again within the interval"
