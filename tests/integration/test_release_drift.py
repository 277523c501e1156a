"""Inputs of a released model drift away from its training data and come back: rows, flag, metrics, page of the release."""

from __future__ import annotations

import json
import time
from pathlib import Path

from dicom_node.releases import lifecycle
from dicom_node.web import metrics
from storage import release_watch
from storage.records import ReleaseRecord
from tests.node import StepNode, bright_series, command, rule, running, send, settings, uid_of
from tests.releases import report, version

SETTINGS = "[drift]\nwindow = 10\nminimum = 10\n"


def trained_on(bundle: Path) -> None:
    """The fingerprint of a model that was trained on images like ``bright_series``, 6 slices each, of one maker."""
    number = {"count": 200, "mean": 0.0, "std": 0.0}
    content = {
        "schema": 1, "digest": "d" * 64, "items": 200, "subjects": 200, "unreadable": 0, "labels": {},
        "numbers": {"size.z": {**number, "deciles": [6.0] * 11}, "intensity.p50": {**number, "deciles": [100.0] * 11}},
        "words": {"manufacturer": {"Acme": 200}, "modality": {"MR": 200}},
    }  # fmt: skip
    (bundle / "fingerprint.json").write_text(json.dumps(content))


def flags(node: StepNode, release: ReleaseRecord) -> list[tuple[str, str]]:
    with node.node.database.read() as connection:
        return [(flag.kind, flag.reason) for flag in release_watch.flags(connection, release.pk)]


def several(node: StepNode, folder: Path, release: ReleaseRecord, count: int, *, slices: int = 6, maker: str = "Acme") -> None:
    """Two runs of images like these; the rest as if they were the last one's."""
    for _ in range(min(count, 2)):
        images = bright_series(slices=slices, Manufacturer=maker, PatientAge="042Y")
        send(node, images, folder / uid_of(images))
    node.work()
    with node.node.database.begin() as connection:
        newest, (statistics, *_) = release_watch.inputs(connection, release.pk, 1)
        for number in range(count - 2):
            release_watch.record_input(connection, release.pk, 1000 * newest + number, statistics)


def test_input_that_drifts_is_flagged_until_it_comes_back(tmp_path: Path) -> None:
    bundle = version(tmp_path / "v", "1")
    trained_on(bundle)
    with running(settings(tmp_path / "node", more=rule() + SETTINGS)) as node:
        config, database = node.node.config, node.node.database
        release = lifecycle.add(config, database, bundle, report(bundle), who="ada", reason="x", now=time.time()).release
        lifecycle.deploy(config, database, "tiny", who="ada", reason="x", now=time.time())
        several(node, tmp_path, release, 9)
        assert node.duties.watch_drift() == 0, "nine runs are not enough"
        several(node, tmp_path, release, 1)
        assert node.duties.watch_drift() == 1
        assert node.duties.watch_drift() == 0, "nothing new came"
        assert flags(node, release) == []
        assert b'dicom_node_release_flagged{kind="drift",model="tiny"} 0.0' in metrics.render(node.node)

        several(node, tmp_path, release, 10, slices=9, maker="Other^Maker")
        assert node.duties.watch_drift() == 1
        ((kind, reason),) = flags(node, release)
        assert kind == "drift"
        assert "size.z 1.00" in reason
        assert "manufacturer 1.00" in reason
        assert "intensity" not in reason
        assert b'dicom_node_release_flagged{kind="drift",model="tiny"} 1.0' in metrics.render(node.node)
        shown = command(config, "release", "show", "tiny").stdout
        assert "FLAGGED" in shown
        assert "DRIFTED  size.z: 1.000 (ks)" in shown
        assert "ok  modality: 0.000 (tv)" in shown
        assert command(config, "release", "list").stdout.rstrip().endswith("drift")

        several(node, tmp_path, release, 10)
        assert node.duties.watch_drift() == 1
        assert flags(node, release) == []

        with database.read() as connection:
            _, window = release_watch.inputs(connection, release.pk, 100)
        assert len(window) == 30
        assert window[0]["numbers"]["age"] == 42.0
        assert "Doe" not in json.dumps(window), "nobody's name"


def test_a_release_without_a_fingerprint_is_not_watched_and_runs(tmp_path: Path) -> None:
    bundle = version(tmp_path / "v", "1")
    with running(settings(tmp_path / "node", more=rule() + SETTINGS)) as node:
        config, database = node.node.config, node.node.database
        release = lifecycle.add(config, database, bundle, report(bundle), who="ada", reason="x", now=time.time()).release
        lifecycle.deploy(config, database, "tiny", who="ada", reason="x", now=time.time())
        images = bright_series()
        send(node, images, tmp_path / "files")
        node.work()
        with database.read() as connection:
            assert release_watch.inputs(connection, release.pk, 10) == (0, [])
        assert node.duties.watch_drift() == 0
