"""Retention as a person and the scheduler meet it: planned, explained, carried out, audited."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config import Config, parse
from dicom_node.errors import ConfigurationError
from storage.errors import NotFound
from storage.integrity import verify
from storage.schema import audit
from tests.commitment import Provider, provider
from tests.node import StepNode, bright_series, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle

RETENTION = """
[retention]
[[retention.rule]]
name = "seen"
sources = ["SCANNER"]
after = "0s"
needs = "nothing"
results_need = "committed"
peers = ["pacs"]
"""


SILENT = '[[peer]]\nname = "pacs"\nae_title = "P"\n'


def configured(folder: Path, pacs: Provider) -> Config:
    tiny_bundle(folder / "bundles")
    return settings(folder, more=peer("pacs", pacs.port, more="commitment = true") + rule("pacs") + RETENTION)


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "dicom_node", *arguments, "--config", str(folder / "node.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_a_study_goes_when_its_results_are_committed_and_not_before(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with provider() as pacs, running(configured(folder, pacs)) as node:
        pacs.node_port = node.port
        images = bright_series()
        send(node, images, tmp_path / "sent")
        node.work()
        assert node.duties.retain() == 0
        assert "a delivery to pacs is not finished" in run(folder, "retention", "plan")
        assert len(pacs.asked) == 2  # of each form
        for asked in list(pacs.asked):
            pacs.answer(asked)
        node.work()

        planned = json.loads(run(folder, "retention", "plan", "--json"))
        assert (planned["studies"], planned["going"]) == (1, 1)
        assert planned["decisions"][0]["why"].endswith("received nothing, results committed by pacs")
        run(folder, "retention", "hold", uid_of(images), "--reason", "research")
        assert node.duties.retain() == 0
        run(folder, "retention", "release", uid_of(images), "--reason", "done")
        assert "\tgoes\tseen\t" in run(folder, "retention", "run", "--dry-run")
        assert node.story(uid_of(images)).study.instances == 8

        assert node.duties.retain() == 1
        assert_gone(node, uid_of(images))
        assert list(node.node.config.archive_root.rglob("*.tar")) == []


def assert_gone(node: StepNode, study_uid: str) -> None:
    with pytest.raises(NotFound):
        node.story(study_uid)
    assert verify(node.node.archive).ok
    with node.node.database.read() as connection:
        (row,) = connection.execute(select(audit.c.actor, audit.c.detail).where(audit.c.event == "study.deleted")).all()
    assert row.actor == "retention"
    assert row.detail["reason"].startswith("rule seen: old enough")


def test_retention_run_deletes_what_the_plan_said(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    plain = RETENTION.replace('results_need = "committed"\npeers = ["pacs"]\n', "")
    with running(settings(folder, more=plain)) as node:
        for number in range(3):
            send(node, bright_series(2), tmp_path / str(number), calling="SCANNER" if number else "OTHER")
        node.work()
        report = json.loads(run(folder, "retention", "run", "--json"))
        assert (report["examined"], len(report["gone"])) == (3, 2)
        assert "no rule fits its sources" in run(folder, "retention", "plan")
    run(folder, "retention", "hold", "1.2.3", "--reason", "x", code=1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[retention.rule]]\nname = "a"\n', "after or when_low is needed"),
        ('[[retention.rule]]\nname = "a"\nwhen_low = "1d"\n', "no [retention] keep_free says when the disk is low"),
        ('[[retention.rule]]\nname = "a"\nafter = "1d"\npeers = ["pacs"]\n', "there is no [[peer]] of that name"),
        (f'{SILENT}[[retention.rule]]\nname = "a"\nafter = "1d"\npeers = ["pacs"]\n', "no commitment = true"),
        ('[archive]\nmin_free = "2GiB"\n[retention]\nkeep_free = "1GiB"\n', "is below archive.min_free"),
    ],
)
def test_what_cannot_work_is_refused_with_the_way_out(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse(text)
    assert problem in str(refused.value)


def test_pulling_stops_below_the_first_watermark_and_storing_below_the_second(tmp_path: Path) -> None:
    from dicom_node.web.metrics import render

    low = settings(tmp_path / "low", more='[retention]\nkeep_free = "1000TiB"\n')
    with running(low) as node:
        assert node.node.disk_state().value == "low"
        assert b"dicom_node_pulling_stopped 1.0" in render(node.node)
        assert send(node, bright_series(1), tmp_path / "sent") == [0]
    folder = tmp_path / "full"
    settings(folder)
    file = folder / "node.toml"
    file.write_text(file.read_text().replace("min_free = 0", 'min_free = "900TiB"') + '[retention]\nkeep_free = "1000TiB"\n')
    with running(parse(file.read_text(), where=file)) as node:
        assert node.node.disk_state().value == "full"
        assert send(node, bright_series(1), tmp_path / "sent2") == [0xA700]
