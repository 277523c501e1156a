"""Volumes rated slice by slice, and what an experimental model's report says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets.densenet import DenseNet, DenseNet121

from dicom_node.results.encode import encode
from dicom_node.results.readback import verify
from dicom_node.results.report import EXPERIMENTAL
from models.bundle import load_bundle
from models.errors import BundleInvalid, WeightsMissing
from models.networks import load_state
from models.predict import Predictor
from models.slices import RateSlices, centred, evenly
from models.spec import parse_spec
from models.volume import read_volume
from models.weights import fetch_weights, resolve_weights
from tests.conftest import unavailable
from tests.results_cases import context, read, series_in, unpacked


def reference(volume: torch.Tensor, network: torch.nn.Module, size: int) -> float:
    """The rating as the tse_motion package writes it down, slice by slice (its CenterCrop pads and crops about the centre)."""
    ratings = []
    for plane in volume.permute(-1, 0, 1):
        cropped = centred((plane / plane.max())[None], size)
        ratings.append(network(cropped[None]).softmax(dim=1).argmax())
    return float(torch.stack(ratings).float().mean())


@pytest.mark.parametrize("shape", [(20, 30, 5), (50, 16, 3), (32, 32, 4), (33, 47, 2)])
def test_the_rating_is_that_of_the_package(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    network = DenseNet(2, 1, 5, init_features=4, growth_rate=2, block_config=(1, 1)).eval()
    volume = torch.rand(shape)
    volume[..., 1] = 0  # nothing to divide by: the package's 0 / 0 gets grade 0
    with torch.inference_mode():
        ((probability, rating),) = RateSlices(size=32, batch=2)(volume[None, None], network).tolist()
        assert rating == pytest.approx(reference(volume, network, 32))
    assert 0 <= probability <= 1


def test_a_volume_without_a_value_has_no_motion() -> None:
    assert RateSlices(size=8)(torch.zeros(1, 1, 4, 4, 3), torch.nn.Identity()).tolist() == [[0.0, 0.0]]


def test_cut_and_padded_about_the_centre() -> None:
    plane = torch.arange(12.0).reshape(1, 3, 4)
    assert centred(plane, 2).tolist() == [[[1, 2], [5, 6]]]
    assert centred(plane, 5)[0, 1].tolist() == [0, 1, 2, 3, 0]
    assert centred(plane, 4)[0, :, 0].tolist() == [0, 4, 8, 0]


def test_slices_are_taken_evenly() -> None:
    assert evenly(3, 0) == evenly(3, 5) == [0, 1, 2]
    assert evenly(100, 4) == [12, 37, 62, 87]


def test_the_bundle_is_marked_experimental() -> None:
    model = load_bundle("mr_motion").dicom.model
    assert model.experimental
    assert model.intended_use.startswith("Experimental")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('quantity = "score"\nsegment = "x"\nchannel = 1', "a score has a channel"),
        ('quantity = "score"', "a score has a channel"),
        ('quantity = "volume"\nchannel = 1', "a volume or area a segment"),
    ],
)
def test_a_score_has_a_channel_and_no_segment(line: str, said: str) -> None:
    text = (load_bundle("mr_motion").root / "dicom.toml").read_text().replace('quantity = "score"\nchannel = 1', line)
    with pytest.raises(BundleInvalid, match=said):
        parse_spec(text)


@pytest.mark.weights
@pytest.mark.real_data
def test_the_real_t1(real_data: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> None:
    bundle = load_bundle("mr_motion")
    try:
        fetch_weights(bundle)
    except WeightsMissing as error:
        unavailable(pytestconfig, f"the weights cannot be fetched: {error}")
    folder = unpacked(real_data / "mr-t1" / "studyforrest-t1w-384.tar.xz", tmp_path_factory.getbasetemp())
    volume = read_volume([path for path, _ in series_in(folder)][184:192])
    prediction = Predictor(bundle).predict(volume)
    (rating,) = prediction.measurements
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=5).eval()
    load_state(network, resolve_weights(bundle)["models/weight.pth"])
    as_nifti = np.ascontiguousarray(volume.array.transpose(2, 1, 0)[:, ::-1], np.float32)
    with torch.inference_mode():
        assert rating.value == pytest.approx(reference(torch.as_tensor(as_nifti), network, 512))
    (found,) = prediction.classifications
    objects = encode(prediction, volume.headers, context(volume.headers, bundle="mr_motion", kinds=("SR",)))
    verify(objects, prediction)
    (report,) = map(read, objects)
    assert report.SeriesDescription.startswith("EXPERIMENTAL mr_motion")
    assert objects[0].dataset_bytes.count(EXPERIMENTAL.encode()) == 2  # of the decision and of the rating
    assert found.value.value in ("121053", "121054")
