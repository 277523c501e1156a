"""Doorbells: heard across threads, and nothing is left of them."""

from __future__ import annotations

from pathlib import Path

from dicom_node import nudge


def deep(tmp_path: Path) -> Path:
    return tmp_path / ("a-folder-whose-name-is-too-long-for-the-path-of-a-socket-" * 2)


def test_a_bell_rings_wherever_its_folder_had_to_go(tmp_path: Path) -> None:
    for runtime_dir in (tmp_path / "run", deep(tmp_path)):
        bell = nudge.Doorbell(runtime_dir, "route")
        try:
            assert not bell.wait(0)
            nudge.ring(runtime_dir, "route")
            assert bell.wait(10)
            assert not bell.wait(0)
        finally:
            bell.close()


def test_the_last_bell_takes_a_temporary_folder_with_it(tmp_path: Path) -> None:
    folder = nudge.folder_for(deep(tmp_path))
    assert not folder.is_relative_to(tmp_path)
    first, second = nudge.Doorbell(deep(tmp_path), "route"), nudge.Doorbell(deep(tmp_path), "infer")
    first.close()
    assert folder.is_dir()
    second.close()
    assert not folder.exists()


def test_ringing_where_nobody_listens_leaves_no_folder(tmp_path: Path) -> None:
    nudge.ring(deep(tmp_path), "route")
    assert not nudge.folder_for(deep(tmp_path)).exists()
