"""A bundle as the MONAI Model Zoo ships them runs unchanged, with a dicom.toml beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import ScaleIntensityRanged
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.post.dictionary import Invertd
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd

from models.bundle import file_sha256, load_bundle, validate_bundle
from models.errors import BundleInvalid, InferenceFailed, NotApplicable, WeightsMismatch
from models.networks import load_state
from models.predict import Predictor, run_model
from models.volume import Volume, read_volume
from tests.imaging import as_files, series, values_of
from tests.zoo import zoo_bundle, zoo_network

TILTED = (0.98, 0.199, 0.0, -0.199, 0.98, 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return zoo_bundle(tmp_path / "blobs")


@pytest.fixture(scope="module")
def volume() -> Volume:
    return read_volume(as_files(series(values_of(20, 48, 40), orientation=TILTED)))


def by_hand(volume: Volume, path: Path) -> np.ndarray:
    """The same steps written out with MONAI, from a NIfTI file instead of DICOM."""
    import nibabel

    nibabel.save(nibabel.Nifti1Image(volume.array.transpose(2, 1, 0), volume.affine), path)
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(1.5, 1.5, 2.0), mode="bilinear"),
            ScaleIntensityRanged("image", 0, 2000, 0, 1, clip=True),
        ]
    )
    data = before({"image": str(path)})
    network = zoo_network().eval()
    with torch.inference_mode():
        scores = sliding_window_inference(data["image"].as_tensor()[None], (16, 16, 16), 4, network, 0.5)[0]
    data["pred"] = type(data["image"])(torch.softmax(scores, 0), meta=data["image"].meta)
    after = Invertd("pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True)(data)["pred"]
    return np.asarray(after.as_tensor().argmax(0)).transpose(2, 1, 0) == 1


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_it_gives_what_monai_gives(folder: Path, volume: Volume, tmp_path: Path) -> None:
    bundle = load_bundle(folder)
    assert validate_bundle(bundle) == []
    prediction = Predictor(bundle).predict(volume)
    (segment,) = prediction.segments
    expected = by_hand(volume, tmp_path / "volume.nii.gz")
    assert segment.mask.shape == volume.array.shape
    assert 0 < segment.mask.sum() < segment.mask.size
    assert (segment.mask != expected).mean() < 1e-3
    assert prediction.measurements[0].value == pytest.approx(segment.mask.sum() * volume.voxel_ml)
    assert not (folder / "eval").exists(), "SaveImaged wrote files"


def test_a_prediction_is_repeatable_and_the_second_is_warm(folder: Path, volume: Volume) -> None:
    predictor = Predictor(load_bundle(folder), threads=1)
    first, second = predictor.predict(volume), predictor.predict(volume)
    np.testing.assert_array_equal(first.segments[0].mask, second.segments[0].mask)
    assert first.timings.load > 0
    assert second.timings.load == 0
    assert second.timings.forward > 0
    assert second.sources == volume.sources
    assert second.model.digest == predictor.bundle.digest


def test_files_in_prediction_out(folder: Path) -> None:
    prediction = run_model(load_bundle(folder), as_files(series(values_of(20, 24, 24))))
    assert len(prediction.sources) == 20
    assert prediction.device == "cpu"


def test_only_the_recorded_digest_runs(folder: Path) -> None:
    digest = load_bundle(folder).digest
    assert Predictor(load_bundle(folder), expected_digest=digest).load() > 0
    (folder / "configs" / "inference.json").write_text(json.dumps({"$": "$open('/nowhere')"}))
    with pytest.raises(BundleInvalid, match="digest is not the recorded one"):
        Predictor(load_bundle(folder), expected_digest=digest).load()


def test_changed_weights_do_not_load(folder: Path, volume: Volume) -> None:
    torch.save({}, folder / "models" / "model.pt")
    with pytest.raises(WeightsMismatch):
        Predictor(load_bundle(folder)).predict(volume)


def test_weights_of_another_network_do_not_load(folder: Path, volume: Volume) -> None:
    path = folder / "models" / "model.pt"
    old = file_sha256(path)
    torch.save({"model": {"other.weight": torch.zeros(1)}}, path)
    spec = folder / "dicom.toml"
    spec.write_text(spec.read_text().replace(old, file_sha256(path)))
    with pytest.raises(BundleInvalid, match="does not fit the network"):
        Predictor(load_bundle(folder)).predict(volume)


def test_nested_checkpoints_and_safetensors_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source, target = zoo_network(), zoo_network()
    torch.save({"model": source.state_dict()}, tmp_path / "a.pt")
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        load_state(target, tmp_path / name)


def test_code_in_weights_is_not_run(folder: Path, volume: Volume, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "ran"), "w")

    path = folder / "models" / "model.pt"
    old = file_sha256(path)
    torch.save({"model": Trap()}, path)
    spec = folder / "dicom.toml"
    spec.write_text(spec.read_text().replace(old, file_sha256(path)))
    with pytest.raises(InferenceFailed, match="load: UnpicklingError"):
        Predictor(load_bundle(folder)).predict(volume)
    assert not (tmp_path / "ran").exists()


def test_a_failing_stage_is_named(folder: Path, volume: Volume) -> None:
    config = folder / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["inferer"] = {"_target_": "SimpleInferer"}
    content["preprocessing"]["transforms"].append({"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x.nothing"})
    config.write_text(json.dumps(content))
    with pytest.raises(InferenceFailed, match="preprocess: ") as failed:
        Predictor(load_bundle(folder)).predict(volume)
    assert failed.value.stage == "preprocess"


def test_a_bundle_that_does_not_invert_is_brought_back_to_the_source_grid(folder: Path, volume: Volume) -> None:
    config = folder / "configs" / "inference.json"
    content = json.loads(config.read_text())
    steps = content["postprocessing"]["transforms"]
    content["postprocessing"]["transforms"] = [step for step in steps if step["_target_"] != "Invertd"]
    config.write_text(json.dumps(content))
    inverted = Predictor(load_bundle(zoo_bundle(folder.parent / "other"))).predict(volume).segments[0].mask
    resampled = Predictor(load_bundle(folder)).predict(volume).segments[0].mask
    assert resampled.shape == inverted.shape
    assert (resampled == inverted).mean() > 0.9


def with_script(folder: Path, limit: float) -> Path:
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text("")
    code = f"""from monai.transforms import ScaleIntensityRanged

class Scale(ScaleIntensityRanged):
    def __init__(self, keys):
        super().__init__(keys, 0, {limit}, 0, 1, clip=True)
"""
    (folder / "scripts" / "scaling.py").write_text(code)
    config = folder / "configs" / "inference.json"
    content = json.loads(config.read_text())
    content["preprocessing"]["transforms"][4] = {"_target_": "scripts.scaling.Scale", "keys": "image"}
    config.write_text(json.dumps(content))
    return folder


def test_bundles_with_scripts_of_the_same_name_stay_apart(tmp_path: Path, volume: Volume) -> None:
    plain = Predictor(load_bundle(zoo_bundle(tmp_path / "plain"))).predict(volume)
    same = Predictor(load_bundle(with_script(zoo_bundle(tmp_path / "same"), 2000))).predict(volume)
    other = Predictor(load_bundle(with_script(zoo_bundle(tmp_path / "other"), 200))).predict(volume)
    np.testing.assert_array_equal(plain.segments[0].mask, same.segments[0].mask)
    assert (plain.segments[0].mask != other.segments[0].mask).any()
    assert "scripts" not in sys.modules


def test_limits_are_checked_before_anything_runs(folder: Path, volume: Volume) -> None:
    with (folder / "dicom.toml").open("a") as stream:
        stream.write('\n[geometry]\nplanes = ["sagittal"]\n')
    with pytest.raises(NotApplicable, match="axial"):
        Predictor(load_bundle(folder)).predict(volume)
