"""A training set without identity, as a folder that every reader takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.cli.main import main
from dicom_node.datasets.archive import parse_question
from dicom_node.datasets.export import export, secret_from
from dicom_node.errors import CommandFailed
from models.datasets.loading import load
from models.datasets.manifest import read_manifest
from tests.integration.test_archive_datasets import RULE, film, sent
from tests.node import StepNode, running, settings
from tests.planar_bundle import planar_bundle


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StepNode]:
    planar_bundle(tmp_path / "node" / "bundles")
    with running(settings(tmp_path / "node", more=RULE)) as started:
        yield started


def test_an_export_is_a_data_set_that_every_command_reads(node: StepNode, tmp_path: Path) -> None:
    sent(node, [film("PATIENT-1"), film("PATIENT-2", BurnedInAnnotation="YES")], tmp_path / "sent")
    node.work()
    question = parse_question("Modality=CR&task=segmentation&classes=Left lung,Right lung")
    done = export(node.node.archive, question, tmp_path / "lungs", secret=b"x" * 32)
    again = read_manifest(done.manifest)
    assert (again.task, again.classes, len(again), again.name) == ("segmentation", ("Left lung", "Right lung"), 1, "lungs")
    (item,) = again
    assert load(item, classes=2).mask is not None
    told = json.loads((tmp_path / "lungs" / "export.json").read_text())
    assert told["profile"] == [{"code": "113100", "meaning": "Basic Application Confidentiality Profile"}]
    assert told["skipped"] == {"it says that text is burned into its pixels (Burned In Annotation)": 1}
    assert told["burned_in_annotation_not_stated"] == 1
    with pytest.raises(CommandFailed, match="not empty"):
        export(node.node.archive, question, tmp_path / "lungs", secret=b"x" * 32)


def test_nothing_to_export_says_why(node: StepNode, tmp_path: Path) -> None:
    sent(node, [film("PATIENT-2", BurnedInAnnotation="YES")], tmp_path / "sent")
    with pytest.raises(CommandFailed, match="burned into its pixels"):
        export(node.node.archive, parse_question("Modality=CR"), tmp_path / "out", secret=b"x" * 32)
    with pytest.raises(CommandFailed, match="finds no image"):
        export(node.node.archive, parse_question("Modality=CT"), tmp_path / "other", secret=b"x" * 32)


def test_the_secret_is_kept_apart_and_private(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    secret = secret_from(file, tmp_path / "out")
    assert secret_from(file, tmp_path / "out") == secret
    assert file.stat().st_mode & 0o077 == 0
    assert secret_from(None, tmp_path / "out") != secret_from(None, tmp_path / "out")
    with pytest.raises(CommandFailed, match="must not lie"):
        secret_from(tmp_path / "out" / "secret", tmp_path / "out")
    file.write_text("short")
    with pytest.raises(CommandFailed, match="at least 32"):
        secret_from(file, tmp_path / "out")


def test_as_commands(node: StepNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent(node, [film("PATIENT-1"), film("PATIENT-2"), film("PATIENT-2"), film("PATIENT-3")], tmp_path / "sent")
    node.work()
    config = ["--config", str(tmp_path / "node" / "node.toml")]
    query = "Modality=CR&task=segmentation&classes=Left lung,Right lung"
    out, secret = tmp_path / "lungs", tmp_path / "secret"
    assert main(["data", "export", "--query", query, "--out", str(out), "--secret", str(secret), "--keep", "patient", *config]) == 0
    told = capsys.readouterr()
    assert "4 items of 3 subjects, 4 images" in told.out
    assert "do not state whether text is burned into them" in told.err
    split = tmp_path / "split.json"
    assert main(["data", "split", "--data", str(out / "manifest.jsonl"), "--out", str(split), *config]) == 0
    assert main(["data", "split", "--data", f"archive:?{query}", "--out", str(tmp_path / "live.json"), "--json", *config]) == 0
    assert main(["data", "export", "--query", "Modalty=CR", "--out", str(tmp_path / "x"), *config]) == 2
    assert "no keyword" in capsys.readouterr().err
