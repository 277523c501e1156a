"""dcmjs-dimse, a DIMSE client that shares no code with the other peers: it stores, finds and gets, and manages workitems."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.imaging import as_file
from tests.node import bright_series, peer, running, settings, uid_of
from tests.npm import installed

pytestmark = [pytest.mark.peer("node"), pytest.mark.peer("npm")]

FOLDER = Path(__file__).parent / "dcmjs"


def test_a_javascript_client_stores_finds_and_gets(tmp_path: Path) -> None:
    images = bright_series(5, PatientName="Javascript^Client")
    files = []
    for number, image in enumerate(images):
        files.append(tmp_path / f"{number}.dcm")
        files[-1].write_bytes(as_file(image).getvalue())
    with running(settings(tmp_path, more=peer("js", 104, title="JSCLIENT"))) as node:
        seen = drive("drive.cjs", node.port, uid_of(images), *map(str, files))
    assert seen["errors"] == []
    assert seen["echo"] == [0]
    assert seen["store"] == [0] * 5
    (found,) = seen["found"]
    assert seen["findStatus"] == 0
    assert found["StudyInstanceUID"] == uid_of(images)
    assert "Javascript^Client" in json.dumps(found["PatientName"])
    assert found["ModalitiesInStudy"] == "MR"
    assert sorted(seen["received"]) == sorted(str(image.SOPInstanceUID) for image in images)
    status, completed, failures = seen["get"][-1]
    assert (status, completed, failures) == (0, 5, 0)


def test_a_javascript_client_creates_claims_and_completes_a_workitem(tmp_path: Path) -> None:
    with running(settings(tmp_path, more=peer("js", 104, title="JSCLIENT", more="may_manage_workitems = true"))) as node:
        seen = drive("workitem.cjs", node.port, "2.25.1234", "2.25.77")
    assert seen["errors"] == []
    assert {name: f"{status:04X}" for name, status in seen["statuses"].items()} == {
        "create": "0000",
        "again": "0120",
        "watch": "0000",
        "claim": "0000",
        "early": "C304",
        "wrong": "C301",
        "set": "0000",
        "complete": "0000",
        "get": "0000",
    }
    assert (seen["shown"]["ProcedureStepState"], seen["shown"]["WorklistLabel"]) == ("COMPLETED", "scripts")
    assert "Javascript^Client" in json.dumps(seen["shown"]["PatientName"])


def drive(script: str, port: int, *arguments: str) -> dict[str, Any]:
    node = shutil.which("node")
    assert node is not None
    command = [node, str(FOLDER / script), str(installed(FOLDER)), str(port), "NODE", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
