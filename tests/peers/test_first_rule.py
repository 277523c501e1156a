"""A new user's first rule: written as the README shows one, tried on a stored study, replayed on history, taken up by the running
node; then the worker is killed in the middle of a run, and the PACS still has one SEG and one SR, with the reasons in ``study show``."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config import load
from tests.e2e.test_serve import SEG, SR, Served, eventually, serving
from tests.imaging import as_file
from tests.node import bright_series, peer, settings, uid_of
from tests.peers.orthanc import Orthanc
from tests.tiny_bundle import tiny_bundle

pytestmark = [pytest.mark.peer("Orthanc"), pytest.mark.peer("dcmsend"), pytest.mark.xdist_group("orthanc")]

README = Path(__file__).parents[2] / "README.md"


def documented_rule(name: str, **changed: str) -> str:
    """The rule of that name as the README writes it, with some of its words exchanged."""
    lines = README.read_text().split(f'[[rule]]\nname = "{name}"', 1)[1].split("\n```", 1)[0].split("\n\n", 1)[0]
    text = f'[[rule]]\nname = "{name}"{lines}\n'
    assert "rule" in tomllib.loads(text)
    for before, after in changed.items():
        assert before in text
        text = text.replace(before, after)
    return text


def command(folder: Path, *arguments: str) -> Any:
    run = [sys.executable, "-m", "dicom_node", *arguments, "--config", str(folder / "node.toml"), "--json"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def dcmsend(node: Served, images: list[Any], folder: Path) -> None:
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number}.dcm").write_bytes(as_file(image).getvalue())
    sent = ["/usr/bin/dcmsend", "-aec", "NODE", "+sd", "127.0.0.1", str(node.port), str(folder)]
    subprocess.run(sent, capture_output=True, timeout=60, check=True)


@pytest.mark.slow
def test_from_the_documentation_to_one_result_in_the_pacs(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    tiny_bundle(folder / "bundles")
    old, new = bright_series(), bright_series()
    with Orthanc(tmp_path / "orthanc") as orthanc:
        settings(folder, quiet="300ms", more=peer("pacs", orthanc.dicom_port, title="ORTHANC") + "\n[executor]\nthreads = 1\n")
        file = folder / "node.toml"
        file.write_text(file.read_text().replace('lease = "30s"', 'lease = "3s"'))
        with serving(folder, load(file)) as node:
            dcmsend(node, old, tmp_path / "old")
            eventually(lambda: (story := node.story(uid_of(old))) is not None and story.study.state == "COMPLETE")

            axial = documented_rule("heads", **{"brain_extraction": "tiny", "*MPRAGE*": "*T1*", "0.5, 2": "0.5, 5", "archive": "pacs"})
            file.write_text(file.read_text() + axial)
            tried = command(folder, "rule", "test", uid_of(old))
            assert [(each["rule"], each["model"], each["verdict"]) for each in tried["models"]] == [("heads", "tiny", "chosen")]
            replayed = command(folder, "rule", "replay", "--since", "30d")
            assert (replayed["studies"], replayed["differing"]) == (1, 1)

            eventually(lambda: "heads" in ((command(folder, "rule", "list")["running"] or {}).get("rules") or []))
            dcmsend(node, new, tmp_path / "new")
            eventually(lambda: (story := node.story(uid_of(new))) is not None and [r.run.state for r in story.runs] == ["IN_PROGRESS"])
            worker = node.role("worker", "--device")
            assert worker is not None
            worker.kill()
            eventually(lambda: node.delivered(uid_of(new)))
            shown = command(folder, "study", "show", uid_of(new))
        objects = sorted(str(orthanc.tags(each["ID"])["SOPClassUID"]) for each in orthanc.instances())
    assert objects == [SEG, SR]
    assert "no open association" in shown["completions"][0]["reason"]
    chosen = [each for series in shown["series"] for each in series["selections"]]
    assert [(each["rule"], each["chosen"], each["reason"]) for each in chosen] == [("heads", True, "the only series that fits")]
    run, deliveries = shown["runs"][0]["run"], shown["runs"][0]["deliveries"]
    assert (run["rule"], run["bundle"], run["state"], len(run["release_digest"])) == ("heads", "tiny", "COMPLETED", 64)
    assert [each["delivery"]["form"] for each in deliveries] == ["SEG", "SR"]
    assert [(row["state"], row["status"]) for each in deliveries for row in each["instances"]] == [("ACCEPTED", 0)] * 2
    happened = [event["detail"] for each in shown["jobs"] if each["job"]["kind"] == "infer" for event in each["events"]]
    assert "the worker's lease expired" in happened
