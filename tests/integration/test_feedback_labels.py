"""A radiologist's word on the command line, over HTTP and out again as labels of a de-identified export."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dicom_node.cli.main import main
from dicom_node.datasets.archive import parse_question
from dicom_node.datasets.export import export
from dicom_node.errors import CommandFailed, UsageError
from models.datasets.manifest import read_manifest
from tests.integration.test_archive_datasets import RULE, film, sent
from tests.node import command, running, settings, uid_of
from tests.planar_bundle import planar_bundle
from tests.webserver import serving

LEFT = "segment:Left lung"


def test_a_rejected_mask_comes_out_as_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planar_bundle(tmp_path / "node" / "bundles")
    config = settings(tmp_path / "node", more=RULE)
    with running(config) as node, serving(config) as web:
        images = [film("PATIENT-1"), film("PATIENT-2"), film("PATIENT-3")]
        sent(node, images, tmp_path / "sent")
        node.work()
        wrong, right, _ = (uid_of([each]) for each in images)
        listed = json.loads(command(config, "study", "feedback", wrong, "--json").stdout)
        assert {"result", LEFT} < {each["finding"] for each in listed}
        said = ("--code", "wrong_extent", "--reason", "PATIENT-1 lies askew")
        assert "revision 1" in command(config, "study", "feedback", wrong, "reject", "--finding", LEFT, *said).stdout
        url = f"http://127.0.0.1:{web.port}/api/studies"
        run = node.story(right).runs[0].run.pk
        asked = {"run": str(run), "finding": LEFT, "verdict": "accept", "seen": "0"}
        assert web.client.post(f"{url}/{right}/feedback", params=asked).json()["revision"] == 1
        late = web.client.post(f"{url}/{right}/feedback", params={**asked, "verdict": "reject", "code": "other", "reason": "no"})
        assert late.status_code == 409
        assert "said 'accept' (revision 1)" in late.json()["error"]
        assert web.client.post(f"{url}/{right}/feedback", params={**asked, "verdict": "reject"}).status_code == 400
        assert web.client.post(f"{url}/{wrong}/feedback", params=asked).status_code == 404
        told = command(config, "study", "show", wrong).stdout
        assert f"reject {LEFT} of run" in told
        assert "wrong_extent (PATIENT-1 lies askew)" in told

        archive, query = node.node.archive, "Modality=CR&task=segmentation&classes=Left lung,Right lung"
        learnt = export(archive, parse_question(query), tmp_path / "learnt", secret=b"x" * 32)
        assert learnt.told["feedback"] == {"accept": 1}
        assert learnt.told["skipped"]["a radiologist rejected or corrected this mask"] == 1
        out = tmp_path / "rejected"
        arguments = [
            "data",
            "export",
            "--query",
            query,
            "--feedback",
            "reject",
            "--out",
            str(out),
            "--config",
            str(tmp_path / "node" / "node.toml"),
        ]
        assert main(arguments) == 0
        assert "judged by radiologists: reject 1" in capsys.readouterr().out
        (line,) = csv.DictReader((out / "feedback.csv").read_text().splitlines())
        (item,) = read_manifest(out / "manifest.jsonl")
        assert (line["item"], line["finding"], line["verdict"], line["reason"]) == (item.id, LEFT, "reject", "wrong_extent")
        assert item.attributes["feedback"] == "reject"
        assert "PATIENT-1" not in "".join(each.read_text() for each in out.iterdir() if each.is_file())
        judged = export(archive, parse_question("Modality=CR&task=feedback"), tmp_path / "judged", secret=b"x" * 32)
        assert sorted(each.labels[LEFT] for each in read_manifest(judged.manifest)) == [0.0, 1.0]
        with pytest.raises(CommandFailed, match="no radiologist said modify"):
            export(archive, parse_question("Modality=CR&feedback=modify"), tmp_path / "none", secret=b"x" * 32)
        with pytest.raises(UsageError, match="no feedback 'odd'"):
            parse_question("feedback=odd")
