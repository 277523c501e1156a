"""Every form of a result before independent judges: dicom3tools and DCMTK's presentation state checker and renderer."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.results.context import EncodedObject
from dicom_node.results.encode import encode
from dicom_node.results.forms import KINDS, Form
from dicom_node.results.readback import verify
from models.findings import Prediction
from models.volume import read_volume
from tests.imaging import as_file
from tests.node import bright_series
from tests.peers.tools import iod_errors, output, study_complaints
from tests.planar_bundle import radiograph
from tests.results_cases import classification, context, ellipsoid, enhanced, headers, of_kind, prediction, segment, volume, write

EVERY = (*(Form(kind) for kind in KINDS if kind not in ("SEG", "SR")), Form("SEG", 3), Form("LABELMAP", 3), Form("SC_MULTIFRAME", 2))


def judged(found: Prediction, sources: Sequence[Dataset], values: np.ndarray, folder: Path, **more: Any) -> list[EncodedObject]:
    objects = encode(found, sources, context(sources, forms=EVERY, **more), values)
    verify(objects, found)
    for path in write(objects, folder):
        assert iod_errors(path) == [], path.name
    return objects


def test_dciodvfy_finds_no_error_in_any_form(tmp_path: Path) -> None:
    masks = [ellipsoid(8, 24, 20), ellipsoid(8, 24, 20, scale=0.2)]
    awkward: dict[str, Any] = {
        "WindowCenter": "1.23456789012345",
        "WindowWidth": "1000.2345678901",
        "PixelSpacing": ["0.66666668653488", "0.69998782873153"],
    }
    sources = headers(RescaleSlope="0.12345678901234", RescaleIntercept="-1.2345678901234", RescaleType="US", **awkward)
    found = prediction(sources, [segment(m, n, f"part {n}") for n, m in enumerate(masks, 1)], classifications=[classification()])
    objects = judged(found, sources, np.zeros((8, 24, 20), np.int16), tmp_path)
    assert {each.kind for each in objects} == set(KINDS)


def test_dciodvfy_finds_no_error_in_the_forms_of_an_enhanced_image(tmp_path: Path) -> None:
    source = enhanced(6)
    found = prediction([source], frame_numbers=(6, 5, 4, 3, 2, 1))
    assert {each.kind for each in judged(found, [source], np.zeros((6, 24, 20), np.int16), tmp_path)} == set(KINDS)


def test_dciodvfy_finds_no_error_in_the_forms_of_a_radiograph_and_of_words_that_are_not_english(tmp_path: Path) -> None:
    film = radiograph()
    path = tmp_path / "film.dcm"
    path.write_bytes(as_file(film).getvalue())
    image = read_volume([path], dimensions=2)
    mask = np.zeros(image.array.shape, bool)
    mask[0, 10:20, 10:20] = True
    found = prediction(image.headers, [segment(mask, name="rechte lunge, groß")], [volume(7.5)])
    path.unlink()
    assert {each.kind for each in judged(found, image.headers, image.array, tmp_path)} == set(KINDS)


def test_a_study_with_every_form_is_consistent(tmp_path: Path) -> None:
    images = bright_series()
    paths = [tmp_path / f"image{number}.dcm" for number in range(len(images))]
    for path, each in zip(paths, images, strict=True):
        path.write_bytes(as_file(each).getvalue())
    image = read_volume(paths)
    found = prediction(image.headers, [segment(image.array > 1000)])
    objects = judged(found, image.headers, image.array, tmp_path)
    assert study_complaints([*paths, *write(objects, tmp_path)]) == []


@pytest.mark.peer("dcmpschk")
@pytest.mark.peer("dcmp2pgm")
def test_dcmtk_accepts_the_presentation_state_and_draws_the_outline(tmp_path: Path) -> None:
    images = bright_series(PatientName="Doe^Jane")
    paths = [tmp_path / f"{number}.dcm" for number in range(len(images))]
    for path, each in zip(paths, images, strict=True):
        path.write_bytes(as_file(each).getvalue())
    image = read_volume(paths)
    mask = image.array > 1000
    (state,) = write([of_kind(judged(prediction(image.headers, [segment(mask)]), image.headers, image.array, tmp_path), "PR")], tmp_path)
    checked = subprocess.run(["/usr/bin/dcmpschk", str(state)], capture_output=True, text=True, timeout=60, check=False)
    # It takes no DT with an offset from UTC, though it quotes the form that has one.
    said = checked.stdout + checked.stderr
    assert {line.split(":")[-1] for line in said.splitlines() if "Affected attribute" in line} <= {
        " ContributionDateTime (0018,a002), Type DT"
    }, said
    shown = next(path for path, each in zip(paths, images, strict=True) if each.pixel_array.max() > 1000)
    told = output("/usr/bin/dcmp2pgm", "-d", "-p", state, shown, tmp_path / "shown.pgm", ok=(0,))
    assert "coordinates: 4\\3, 7\\3, 7\\6, 4\\6, 4\\3" in told, told  # around columns 4 to 6 and rows 3 to 5, from 0
    assert "presentation pixel spacing: X=0.7mm Y=0.8 mm" in told, told
    assert "FOR REVIEW" in told
    assert (tmp_path / "shown.pgm").read_bytes()[:2] == b"P5"
