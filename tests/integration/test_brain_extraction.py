"""The shipped bundle on real heads: the right volume, the right mask, and little time beside the networks."""

from __future__ import annotations

import json
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional
from pydicom import dcmread

from models.bundle import load_bundle
from models.demo_input import fetch_template, read_axial, write_demo_series
from models.errors import NotApplicable, WeightsMissing
from models.findings import Code
from models.inferers import nearest_exact, sample, standardise
from models.postprocess import fill_holes, largest_component
from models.predict import Predictor
from models.volume import read_volume
from models.weights import fetch_weights
from tests.conftest import unavailable
from tests.imaging import as_files, series, values_of
from tests.peers.tools import iod_errors, program


@pytest.fixture(scope="session")
def predictor(pytestconfig: pytest.Config) -> Predictor:
    bundle = load_bundle("brain_extraction")
    try:
        fetch_weights(bundle)
    except WeightsMissing as error:
        unavailable(pytestconfig, f"the weights cannot be fetched: {error}")
    return Predictor(bundle)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> list[Path]:
    try:
        return write_demo_series(tmp_path_factory.mktemp("demo"))
    except WeightsMissing as error:
        unavailable(pytestconfig, f"the template cannot be fetched: {error}")
        raise


@pytest.fixture(scope="module")
def head(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    folder = tmp_path_factory.mktemp("head")
    (archive,) = (real_data / "mr-t1").glob("*.tar.xz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    yield sorted(folder.rglob("*.dcm"))
    shutil.rmtree(folder)


@pytest.mark.weights
@pytest.mark.slow
def test_mni152_against_its_brain_mask(predictor: Predictor, demo: list[Path]) -> None:
    prediction = predictor.predict(read_volume(demo))
    mask, _ = read_axial(fetch_template()[1])
    truth, found = mask > 0, prediction.segments[0].mask
    dice = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    assert dice >= 0.94
    assert prediction.segments[0].type == Code("12738006", "SCT", "Brain")


@pytest.mark.weights
@pytest.mark.real_data
@pytest.mark.slow
def test_the_reference_head(predictor: Predictor, head: list[Path]) -> None:
    assert len(head) == 384
    started = time.perf_counter()
    volume = read_volume(head)
    prediction = predictor.predict(volume)
    elapsed = time.perf_counter() - started
    (brain,) = prediction.measurements
    assert brain.value == pytest.approx(1791.7, rel=0.01)
    assert brain.unit == Code("mL", "UCUM", "milliliter")
    assert prediction.segments[0].mask.shape == volume.array.shape == (384, 384, 274)
    assert prediction.timings.forward > 0
    assert elapsed - prediction.timings.forward - prediction.timings.load < 20, "far above what a busy machine needs"


@pytest.mark.weights
@pytest.mark.slow
def test_the_same_head_in_any_order_and_orientation(predictor: Predictor, demo: list[Path]) -> None:
    volume = read_volume(demo)
    upright = predictor.predict(volume)
    sagittal = series(
        volume.array.transpose(2, 0, 1)[:, ::-1],
        orientation=(0, 1, 0, 0, 0, -1),
        spacing=(1, 1),
        step=-1,
        origin=(-90.0, -91.0, 109.0),
    )
    turned = predictor.predict(read_volume(as_files(reversed(sagittal))))
    assert turned.measurements[0].value == pytest.approx(upright.measurements[0].value, rel=0.005)


@pytest.mark.weights
def test_no_head_is_not_applicable(predictor: Predictor) -> None:
    blank = series(np.zeros((120, 120, 120), np.int16), spacing=(1, 1), step=1)
    with pytest.raises(NotApplicable, match="blank"):
        predictor.predict(read_volume(as_files(blank)))
    small = series(values_of(50), spacing=(1, 1), step=1)
    with pytest.raises(NotApplicable, match="less than the model needs"):
        predictor.predict(read_volume(as_files(small)))


@pytest.mark.weights
def test_the_demo_series_passes_dciodvfy(demo: list[Path], pytestconfig: pytest.Config) -> None:
    if not Path(program("dciodvfy")).exists():
        unavailable(pytestconfig, "dciodvfy is not installed")
    for path in (demo[0], demo[90], demo[-1]):
        assert iod_errors(path) == []


@pytest.mark.weights
def test_the_demo_series_lies_where_the_template_lies(demo: list[Path], tmp_path: Path) -> None:
    volume = read_volume(demo)
    values, affine = read_axial(fetch_template()[0])
    np.testing.assert_array_equal(volume.array, values)
    np.testing.assert_allclose(volume.affine_lps, affine, atol=1e-6)
    centre = affine @ [*(reversed([side / 2 for side in values.shape])), 1]
    assert abs(centre[0]) < 2, "the midline is at x = 0"
    again = write_demo_series(tmp_path, seed="demo")
    assert dcmread(again[0]).SOPInstanceUID == dcmread(demo[0]).SOPInstanceUID
    other = write_demo_series(tmp_path / "other", seed="second")
    assert dcmread(other[0]).StudyInstanceUID != dcmread(demo[0]).StudyInstanceUID


def test_sampling_is_torchs_nearest_exact() -> None:
    for old in (1, 7, 128, 274, 384):
        for new in (3, 128, 256, 301):
            line = torch.arange(old, dtype=torch.float32)[None, None]
            expected = torch.nn.functional.interpolate(line, new, mode="nearest-exact")[0, 0]
            assert expected.numpy().astype(int).tolist() == nearest_exact(old, new).tolist()
    block = torch.arange(5 * 6 * 7).reshape(5, 6, 7).permute(2, 0, 1)
    expected = torch.nn.functional.interpolate(block[None, None].double(), (3, 9, 4), mode="nearest-exact")[0, 0]
    assert torch.equal(sample(block, (3, 9, 4)), expected.long())


def test_standardising_is_the_published_formula() -> None:
    values = torch.rand(40, 50, 60) * 3000
    low, high = 100.0, 2500.0
    scaled = ((values.double() - low) / (high - low)).clamp(0, 1)
    expected = 0.226 * (scaled - scaled.mean()) / scaled.std() + 0.449
    assert torch.allclose(standardise(values.clone(), low, high).double(), expected, atol=1e-6)


def test_components_touch_by_corners_and_holes_close() -> None:
    mask = np.zeros((8, 8, 8), bool)
    mask[0:2, 0:2, 0:2] = mask[2, 2, 2] = True
    mask[6, 6, 6] = True
    kept = largest_component(mask)
    assert kept.sum() == 9
    shell = np.zeros((7, 7, 7), bool)
    shell[1:6, 1:6, 1:6] = True
    shell[2:5, 2:5, 2:5] = False
    assert fill_holes(shell).sum() == 125
    shell[1, 3, 3] = False
    assert fill_holes(shell).sum() == shell.sum()


def test_the_bundle_is_plain_monai() -> None:
    """MONAI's own parser instantiates the transforms: nothing in the bundle needs the node but its own classes."""
    from monai.bundle.config_parser import ConfigParser

    bundle = load_bundle("brain_extraction")
    parser = ConfigParser(json.loads((bundle.root / "configs" / "inference.json").read_text()))
    assert parser.get_parsed_content("postprocessing#transforms#0").keys == ("pred",)
