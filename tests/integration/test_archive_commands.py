"""What the archive's commands say when they are pointed at the wrong thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.cli.main import main
from tests.node import settings


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    settings(tmp_path)
    file = ["--config", str(tmp_path / "node.toml")]
    images = tmp_path / "images"
    images.mkdir()
    assert main(["archive", "import", str(images), *file]) == 0
    return file


def test_a_folder_that_is_not_there_is_named_and_nothing_imported(
    tmp_path: Path, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["archive", "import", str(tmp_path / "images"), str(tmp_path / "imags"), *config]) == 2
    assert "imags" in capsys.readouterr().err


def test_a_study_that_is_not_there_is_no_empty_export(tmp_path: Path, config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["archive", "export", "--study", "1.2.3", str(tmp_path / "out"), *config]) == 1
    assert "no study 1.2.3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_index_in_use_is_not_rebuilt_and_the_way_out_is_named(config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["archive", "reindex", *config]) == 1
    assert "move the old index away" in capsys.readouterr().err
