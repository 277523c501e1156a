"""Pictures of preprocessing: what each step did, on the same arrays that serving makes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dicom_node.cli.main import main
from models.bundle import load_bundle
from models.errors import InferenceFailed
from models.predict import Predictor
from models.preprocess import Preprocessing
from models.preview import draw_stage, read_input, stages
from models.volume import read_volume
from tests.imaging import as_files
from tests.planar_bundle import planar_bundle, radiograph


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.dcm"
    radiograph().save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("axes", ["xyz", "zyx"])
def test_the_last_picture_is_of_what_serving_hands_to_the_network(film: Path, tmp_path: Path, axes: str) -> None:
    bundle = load_bundle(planar_bundle(tmp_path, axes=axes))
    shown = list(stages(Preprocessing.from_bundle(bundle), read_input(bundle, [film])))
    served = Predictor(bundle).raw_output(read_volume(as_files([radiograph()]), dimensions=2))
    assert [stage.name for stage in shown] == ["Resized", "ScaleIntensityd"]
    assert torch.equal(shown[-1].after.as_tensor(), served.as_subclass(torch.Tensor))


def test_the_command_writes_a_picture_a_step(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, out = planar_bundle(tmp_path), tmp_path / "out"
    assert main(["model", "preview", str(bundle), "--input", str(film), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["graph"] == Preprocessing.from_bundle(load_bundle(bundle)).digest
    assert sorted(path.name for path in out.iterdir()) == ["00-input.png", "01-Resized.png", "02-ScaleIntensityd.png"]
    with Image.open(out / "01-Resized.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert {0, 255} <= set(np.unique(pixels).tolist())
    folder = tmp_path / "folder"
    folder.mkdir()
    film.rename(folder / "film.dcm")
    assert main(["model", "preview", str(bundle), "--input", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert main(["model", "preview", str(bundle), "--input", str(tmp_path / "gone"), "--out", str(out)]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_points_are_drawn_and_a_filter_shows_its_difference(tmp_path: Path) -> None:
    picture = tmp_path / "dots.png"
    values = np.full((96, 96), 40, np.uint8)
    values[20:30, 20:30], values[60:70, 50:75] = 220, 180
    Image.fromarray(values).save(picture)
    image = read_input(load_bundle(planar_bundle(tmp_path)), [picture])
    steps = [
        {"_target_": "models.transforms.GaussianFilterd", "keys": "image", "sigma": 1.0},
        {"_target_": "models.transforms.FeaturePointsd", "keys": "image"},
    ]
    smooth, points = stages(Preprocessing.from_config(steps), image)
    assert draw_stage(smooth).width > draw_stage(points).width  # three columns against two
    assert points.points is not None
    assert len(points.points)
    assert (np.asarray(draw_stage(points)) == (255, 190, 0)).all(axis=2).any()
    assert torch.equal(points.before.as_tensor(), points.after.as_tensor())


def test_a_volume_has_three_planes_in_their_proportions(tmp_path: Path) -> None:
    import nibabel

    volume = tmp_path / "volume.nii"
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(1).random((20, 30, 10)).astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0])), volume
    )
    bundle = load_bundle("brain_extraction")
    (stage,) = stages(Preprocessing.from_bundle(bundle), read_input(bundle, [volume]))
    assert draw_stage(stage).height > 3 * 250


def test_a_step_that_fails_is_named(tmp_path: Path) -> None:
    picture = tmp_path / "grey.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    image = read_input(load_bundle(planar_bundle(tmp_path)), [picture])
    steps = [
        {"_target_": "ScaleIntensityd", "keys": "image"},
        {"_target_": "models.transforms.MedianFilterd", "keys": "image", "size": 4},
    ]
    with pytest.raises(InferenceFailed, match=r"step 2 \(MedianFilterd\) fails on this image.*odd"):
        list(stages(Preprocessing.from_config(steps), image))
