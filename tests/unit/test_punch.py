"""Punched bytes read as zeros, their neighbours stay, and the file keeps its size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage import punch as module
from storage.copying import copy_file
from storage.punch import punch


@pytest.mark.parametrize("hole", [True, False])
@pytest.mark.parametrize(("offset", "length"), [(0, 100_000), (513, 8191), (99_999, 1), (5, 0)])
def test_punch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hole: bool, offset: int, length: int) -> None:
    if not hole:
        monkeypatch.setattr(module, "_fallocate", lambda: None)
    path = tmp_path / "file"
    path.write_bytes(b"\xff" * 100_000)
    with path.open("r+b") as file:
        punch(file.fileno(), offset, length)
    assert path.read_bytes() == b"\xff" * offset + bytes(length) + b"\xff" * (100_000 - offset - length)


@pytest.mark.parametrize("in_kernel", [True, False])
def test_copy_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool) -> None:
    if not in_kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    (tmp_path / "a").write_bytes(bytes(range(256)) * 40)
    assert copy_file(tmp_path / "a", tmp_path / "new" / "b", 1000, padding=24) == 1024
    assert (tmp_path / "new" / "b").read_bytes() == (bytes(range(256)) * 40)[:1000] + bytes(24)
    assert copy_file(tmp_path / "a", tmp_path / "c") == 10240
