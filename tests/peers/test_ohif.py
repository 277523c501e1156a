"""The viewer as a new user gets it: one command installs it, and the node's own address shows list, series and segmentation."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from dicom_node.results.forms import kind_of
from storage.schema import instance
from storage.schema import series as table
from tests.imaging import series
from tests.node import command, rule, running, send, settings, uid_of
from tests.npm import package, viewer
from tests.tiny_bundle import tiny_bundle
from tests.webserver import serving

pytestmark = [pytest.mark.peer("chromium"), pytest.mark.peer("node"), pytest.mark.peer("npm")]

PLAYWRIGHT = ("playwright-core", "1.64.1", "BC4s8y6SEVA6Q1rSxZTto8hI1KUI3xXlHGZgvGqP4IqPdI/a6FX9H29IDNz7vKo9l21b6LfYosScPL6M3xxyDQ==")
FORMS = ("LABELMAP", "SC")  # what it claims to show, beside SEG
DRIVER = Path(__file__).parent / "ohif" / "drive.mjs"
SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"


def head() -> np.ndarray:
    """A ball with a bright core, 24 slices of 128 x 128."""
    z, y, x = np.mgrid[:24, :128, :128]
    distance = np.sqrt(((z - 12) * 4) ** 2 + (y - 64) ** 2 + (x - 64) ** 2)
    values = np.where(distance < 46, 400 + 3 * (x % 16), 20).astype(np.int16)
    values[distance < 18] = 1500
    return values


def test_the_installed_viewer_shows_list_series_and_segmentation(tmp_path: Path) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tiny_bundle(tmp_path / "bundles")
    images = series(head(), SeriesDescription="T1", PatientName="VIEWER^TEST", PatientID="V1")
    config = settings(tmp_path, more=rule())
    config = config.model_copy(update={"archive": config.archive.model_copy(update={"results": FORMS})})
    with running(config) as node:
        assert set(send(node, images, tmp_path / "out")) == {0}
        node.work()
        with node.node.database.read() as connection:
            found = connection.execute(select(instance.c.sop_class_uid, table.c.series_uid).join(table, table.c.pk == instance.c.series_pk))
            series_of = {str(kind_of(sop_class)): str(uid) for sop_class, uid in found}
    with serving(config) as web:
        site = f"http://127.0.0.1:{web.port}/viewer"
        assert "dicom-node viewer install" in web.client.get(f"{site}/").json()["error"]
        done = command(config, "viewer", "install", "--from", str(viewer()))
        assert (done.returncode, "/viewer/" in done.stdout) == (0, True), done.stderr
        seen = drive(site, uid_of(images), series_of["SEG"], *(f"{form}={series_of[form]}" for form in FORMS))
    assert "error" not in seen, seen
    assert (seen["failed"], seen["blocked"], seen["foreign"]) == ([], [], [])
    assert all(status in (200, 204, 206, 304) for found in seen["statuses"].values() for status in found), seen["statuses"]
    assert seen["list"]
    assert seen["overlay"]
    assert seen["forms"] == list(FORMS)
    (shown,) = seen["segmentations"]
    assert len(shown["segments"]) == 1


def drive(site: str, study: str, segmentation: str, *forms: str) -> dict[str, Any]:
    node = shutil.which("node")
    assert node is not None
    command = [node, str(DRIVER), str(package(*PLAYWRIGHT)), site, study, segmentation, str(SCREENSHOTS), *forms]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
