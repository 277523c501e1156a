"""The real chest film through the shipped cxr_lungs: C-STORE in, SEG and SR out to Orthanc, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import segread
from numpy.typing import NDArray
from pydicom import dcmread
from scipy import ndimage

from tests.node import peer, running, send, settings, uid_of
from tests.peers.orthanc import Orthanc
from tests.peers.tools import iod_errors

pytestmark = [pytest.mark.peer("Orthanc"), pytest.mark.xdist_group("orthanc"), pytest.mark.real_data]

SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
RULE = """
[[rule]]
name = "lungs"
match = { Modality = ["CR", "DX"] }
run = ["cxr_lungs"]
deliver = ["pacs"]
"""


def test_the_lungs_of_the_real_film_arrive_in_the_pacs(real_data: Path, tmp_path: Path) -> None:
    film = dcmread(real_data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm")
    with Orthanc(tmp_path / "orthanc") as orthanc:
        config = settings(tmp_path / "node", more=peer("pacs", orthanc.dicom_port, title="ORTHANC") + RULE)
        with running(config) as node:
            assert send(node, [film], tmp_path / "sent") == [0]
            node.work()
            (run,) = node.story(uid_of([film])).runs
            assert run.run.state == "COMPLETED", run.run
            assert [each.delivery.state for each in run.deliveries] == ["DELIVERED"] * 2
        held = {str(orthanc.tags(each["ID"])["SOPClassUID"]): each["ID"] for each in orthanc.instances()}
        assert sorted(held) == [SEG, SR]
        paths = {}
        for sop_class, identifier in held.items():
            paths[sop_class] = tmp_path / f"{sop_class}.dcm"
            paths[sop_class].write_bytes(orthanc.instance_bytes(identifier))
    assert iod_errors(paths[SEG]) == iod_errors(paths[SR]) == []
    mask = segread(paths[SEG]).get_pixels_by_source_instance([film.SOPInstanceUID])[0].max(-1) > 0
    looks_like_two_lungs(mask)
    report = json.dumps(dcmread(paths[SR]).to_json_dict())
    assert '"Area"' in report
    assert "calibration-not-stated" in report  # the film's Pixel Spacing does not say in which plane it holds


def looks_like_two_lungs(mask: NDArray[np.bool_]) -> None:
    """Two large parts, one in either half, of a size and place that lungs on this film have."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    largest = np.argsort(sizes)[-2:] + 1
    assert count >= 2
    assert sizes[largest - 1].sum() > 0.98 * sizes.sum()
    share = mask.mean()
    assert 0.15 < share < 0.40
    places = [np.argwhere(labels == part).mean(axis=0) for part in largest]
    columns = sorted(float(place[1]) / mask.shape[1] for place in places)
    assert 0.15 < columns[0] < 0.45 < 0.55 < columns[1] < 0.85
    assert all(0.25 < float(place[0]) / mask.shape[0] < 0.65 for place in places)
