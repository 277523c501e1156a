"""A radiology viewer as its makers built it, pointed at the node by its DICOMweb address alone: list, series, segmentation."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from storage.schema import series as table
from tests.imaging import series
from tests.node import rule, running, send, settings, uid_of
from tests.npm import package
from tests.peers.ohif.site import Site
from tests.tiny_bundle import tiny_bundle
from tests.webserver import configured, serving

pytestmark = [pytest.mark.peer("chromium"), pytest.mark.peer("node"), pytest.mark.peer("npm")]

OHIF = ("@ohif/app", "3.13.2", "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==")
PLAYWRIGHT = ("playwright-core", "1.64.1", "BC4s8y6SEVA6Q1rSxZTto8hI1KUI3xXlHGZgvGqP4IqPdI/a6FX9H29IDNz7vKo9l21b6LfYosScPL6M3xxyDQ==")
DRIVER = Path(__file__).parent / "ohif" / "drive.mjs"
SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"


def head() -> np.ndarray:
    """A ball with a bright core, 24 slices of 128 x 128."""
    z, y, x = np.mgrid[:24, :128, :128]
    distance = np.sqrt(((z - 12) * 4) ** 2 + (y - 64) ** 2 + (x - 64) ** 2)
    values = np.where(distance < 46, 400 + 3 * (x % 16), 20).astype(np.int16)
    values[distance < 18] = 1500
    return values


def test_a_viewer_shows_list_series_and_segmentation(tmp_path: Path) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tiny_bundle(tmp_path / "bundles")
    site = Site(package(*OHIF) / "dist")
    with site.running():
        images = series(head(), SeriesDescription="T1", PatientName="VIEWER^TEST", PatientID="V1")
        with running(settings(tmp_path, more=rule())) as node:
            assert set(send(node, images, tmp_path / "out")) == {0}
            node.work()
            with node.node.database.read() as connection:
                segmentation = str(connection.scalar(select(table.c.series_uid).where(table.c.modality == "SEG")))
        with serving(configured(tmp_path, web=f'allowed_origins = ["{site.url}"]', more=rule())) as web:
            site.point_at(web.url)
            seen = drive(site.url, uid_of(images), segmentation)
    assert "error" not in seen, seen
    assert seen["failed"] == []
    assert all(status in (200, 204, 206, 304) for found in seen["statuses"].values() for status in found), seen["statuses"]
    assert seen["list"]
    assert seen["overlay"]
    (shown,) = seen["segmentations"]
    assert len(shown["segments"]) == 1


def drive(site: str, study: str, segmentation: str) -> dict[str, object]:
    node = shutil.which("node")
    assert node is not None
    command = [node, str(DRIVER), str(package(*PLAYWRIGHT)), site, study, segmentation, str(SCREENSHOTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, object] = json.loads(done.stdout)
    return answer
