"""Output tensors become findings: labels, channels and scores, always on the grid of the source images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from models.errors import InferenceFailed, OutOfMemory
from models.findings import Prediction, Timings
from models.output import on_source_grid, read_output
from models.predict import _stage
from models.reader import Axes
from models.spec import DicomSpec, parse_spec
from models.volume import Volume, read_volume
from tests.imaging import as_files, series, values_of

HEAD = """
[model]
name = "demo"
version = "1.0"
manufacturer = "Tests"
intended_use = "Tests"
licence = "MIT"
"""
CODES = """
category = { value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }
type = { value = "12738006", scheme = "SCT", meaning = "Brain" }
"""
TWO = f"""
[[segment]]
label = "Left"
value = 1
{CODES}
[[segment]]
label = "Right"
value = 2
color = [1, 2, 3]
tracking = "right-half"
{CODES}
[[measurement]]
quantity = "volume"
segment = "Right"
[[measurement]]
quantity = "volume"
segment = "Left"
"""
MOTION = """
[output]
form = "scores"
[[classification]]
label = "Motion"
channel = 1
threshold = 0.6
name = { value = "111101", scheme = "DCM", meaning = "Image Quality" }
positive = { value = "111222", scheme = "DCM", meaning = "Motion blur" }
negative = { value = "111110", scheme = "DCM", meaning = "Good" }
"""


@pytest.fixture(scope="module")
def volume() -> Volume:
    return read_volume(as_files(series(values_of(4, 6, 5))))


def spec(text: str) -> DicomSpec:
    return parse_spec(HEAD + text)


def test_labels(volume: Volume) -> None:
    output = torch.zeros(1, 5, 6, 4)
    output[0, 0, :, :2] = 1
    output[0, 1, 0, 3] = 2
    segments, measured, decided = read_output(spec(TWO), output, volume)
    assert [(s.number, s.label, int(s.mask.sum()), s.color, s.tracking_id) for s in segments] == [
        (1, "Left", 12, None, "Left"),
        (2, "Right", 1, (1, 2, 3), "right-half"),
    ]
    assert segments[1].mask[3, 0, 1], "masks are (slices, rows, columns)"
    assert [(m.segment, m.value) for m in measured] == [(2, pytest.approx(volume.voxel_ml)), (1, pytest.approx(12 * volume.voxel_ml))]
    assert decided == ()


def test_channels_may_overlap(volume: Volume) -> None:
    output = torch.zeros(3, 5, 6, 4)
    output[1] = 0.5
    output[2, 0] = 0.9
    segments, _, _ = read_output(spec(TWO + '[output]\nform = "channels"\n'), output, volume)
    assert [int(s.mask.sum()) for s in segments] == [5 * 6 * 4, 6 * 4]


def test_an_empty_segment_is_not_measured(volume: Volume) -> None:
    segments, measured, _ = read_output(spec(TWO), torch.zeros(1, 5, 6, 4), volume)
    assert measured == ()
    prediction = Prediction(None, segments, measured, (), (), (), "cpu", Timings())  # type: ignore[arg-type]
    assert prediction.empty


@pytest.mark.parametrize(("score", "positive", "meaning"), [(0.6, True, "Motion blur"), (0.59, False, "Good")])
def test_scores(volume: Volume, score: float, positive: bool, meaning: str) -> None:
    segments, measured, (decided,) = read_output(spec(MOTION), torch.tensor([0.1, score], dtype=torch.float64), volume)
    assert (decided.positive, decided.value.meaning, decided.probability) == (positive, meaning, score)
    assert (segments, measured) == ((), ())


@pytest.mark.parametrize(
    ("text", "output", "told"),
    [
        (TWO, torch.zeros(2, 5, 6, 4), "one channel of labels"),
        (TWO + '[output]\nform = "channels"\n', torch.zeros(2, 5, 6, 4), "names channel 2"),
        (TWO, torch.zeros(5, 6, 4), "3 dimensions"),
        (TWO, torch.zeros(1, 6, 5, 4), "not on the source grid"),
        (MOTION, torch.zeros(1), "names score 1"),
    ],
)
def test_outputs_that_do_not_fit(volume: Volume, text: str, output: torch.Tensor, told: str) -> None:
    with pytest.raises(InferenceFailed, match=told):
        read_output(spec(text), output, volume)


def test_both_axis_orders_mean_the_same_place(volume: Volume) -> None:
    values = torch.arange(4 * 6 * 5).reshape(4, 6, 5)
    native = on_source_grid(values[None], volume, Axes("zyx"))
    usual = on_source_grid(values.permute(2, 1, 0)[None], volume, Axes("xyz"))
    np.testing.assert_array_equal(native, usual)
    index = np.array([3, 2, 1, 1])
    np.testing.assert_allclose(Axes("zyx").affine(volume) @ index, Axes("xyz").affine(volume) @ index[[2, 1, 0, 3]])


def test_another_grid_is_brought_back_by_its_affine(volume: Volume) -> None:
    flipped = torch.zeros(1, 5, 6, 4)
    flipped[0, 0, 2, 3] = 1
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 0] * 4
    affine[:3, 0] *= -1
    array = on_source_grid(MetaTensor(flipped, affine=torch.as_tensor(affine)), volume, Axes())
    assert np.argwhere(array).tolist() == [[0, 3, 2, 4]]


def test_too_little_memory_has_a_name() -> None:
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        with pytest.raises(OutOfMemory), _stage("forward"):
            raise error
