"""The other tasks: labels, boxes, images without labels, and pretraining."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from models.bundle import load_bundle, validate_bundle
from models.predict import Predictor
from models.training.classification import roc_auc
from models.training.errors import TrainingRefused
from models.training.pretraining import covered
from models.training.run import train
from models.volume import read_volume
from tests.imaging import as_files
from tests.planar_bundle import radiograph
from tests.training_data import AUTOENCODER, CLASSIFICATION, DETECTION, SEGMENTATION, Data, blobs, config, parts


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return blobs(tmp_path_factory.mktemp("blobs"), 40)


def unmasked(data: Data) -> Data:
    return dataclasses.replace(data, task="none", items=[dataclasses.replace(item, mask=None, boxes=()) for item in data])


def test_a_classifier_learns_a_label_and_answers_with_a_score(data: Data, tmp_path: Path) -> None:
    labels = dataclasses.replace(data, task="classification", classes=("large",))
    items = [dataclasses.replace(item, mask=None, labels={} if n == 3 else item.labels) for n, item in enumerate(labels)]
    done = train(config(CLASSIFICATION), dataclasses.replace(labels, items=items), parts(labels), tmp_path / "sizes")
    assert done.record.figures["auc.large"] > 0.9
    assert [each.reason for each in done.record.skipped] == ["it has none of the labels"]
    bundle = load_bundle(done.folder)
    assert validate_bundle(bundle) == []
    answers = {}
    for item in data.items[-8:]:
        values = np.asarray(Image.open(item.image[0])).astype(np.int16)
        (answer,) = Predictor(bundle).predict(read_volume(as_files([radiograph(values)]), dimensions=2)).classifications
        assert answer.probability is not None
        assert 0 <= answer.probability <= 1
        answers.setdefault(item.labels["large"], []).append(answer.probability)
    assert np.mean(answers[1.0]) > np.mean(answers[0.0])


def test_a_detector_learns_boxes(data: Data, tmp_path: Path) -> None:
    boxes = dataclasses.replace(data, task="detection", items=[dataclasses.replace(item, mask=None) for item in data])
    record = train(config(DETECTION), boxes, parts(boxes), tmp_path / "boxes").record
    assert record.figures["map50"] > 0.7


def test_a_box_of_an_unknown_class_is_skipped(data: Data, tmp_path: Path) -> None:
    boxes = dataclasses.replace(data, task="detection", items=[dataclasses.replace(item, mask=None) for item in data])
    strange = dataclasses.replace(boxes.items[0].boxes[0], label="unicorn")
    boxes.items[0] = dataclasses.replace(boxes.items[0], boxes=(strange,))
    record = train(config(DETECTION, epochs="epochs = 1"), boxes, parts(boxes), tmp_path / "boxes").record
    assert [each.reason for each in record.skipped] == ["a box has the label 'unicorn', which is no class of the data set"]


def test_an_autoencoder_finds_what_is_unlike_the_rest(data: Data, tmp_path: Path) -> None:
    plain = unmasked(data)
    bundle = load_bundle(train(config(AUTOENCODER), plain, parts(plain), tmp_path / "unusual").folder)
    assert validate_bundle(bundle) == []
    usual = np.asarray(Image.open(data.items[-1].image[0])).astype(np.int16)
    unusual = np.kron(np.indices((16, 16)).sum(0) % 2, np.ones((4, 4))).astype(np.int16) * 255
    scores = []
    for values in (usual, unusual):
        (answer,) = Predictor(bundle).predict(read_volume(as_files([radiograph(values)]), dimensions=2)).classifications
        scores.append(answer.probability)
    assert scores[1] == 1.0
    assert scores[0] is not None
    assert scores[0] < 1.0


def test_a_pretrained_encoder_starts_a_later_training(data: Data, tmp_path: Path) -> None:
    plain = unmasked(data)
    text = SEGMENTATION[: SEGMENTATION.index("[dicom.model]")].replace('keys = ["image", "mask"]', 'keys = "image"')
    settings = config(text, task='task = "pretraining"', out_channels="out_channels = 1", epochs="epochs = 4")
    first = train(settings, plain, parts(plain), tmp_path / "pretrained")
    curve = [row["error"] for row in first.record.curve]
    assert curve[-1] < curve[0]
    weights = tmp_path / "pretrained" / "models" / "model.safetensors"
    frozen = config(epochs=f'epochs = 1\npretrained = "{weights}"', lr="lr = 0.0", average="average = 0.0")
    second = train(frozen, data, parts(data), tmp_path / "later")
    one, other = load_file(weights), load_file(second.folder / "models" / "model.safetensors")
    alike = [name for name in one if one[name].shape == other[name].shape and one[name].is_floating_point()]
    assert all(one[name].equal(other[name]) for name in alike if "running" not in name)
    assert 0 < len(alike) < len(one)


def test_pretrained_weights_that_fit_nothing_are_refused(data: Data, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"strange": torch.zeros(1)}, tmp_path / "strange.safetensors")
    settings = config(epochs=f'epochs = 1\npretrained = "{tmp_path / "strange.safetensors"}"')
    with pytest.raises(TrainingRefused, match="no tensor that fits"):
        train(settings, data, parts(data), tmp_path / "later")


def test_half_of_an_image_is_covered_and_the_same_half_again() -> None:
    one, same, other = covered((64, 64), 1), covered((64, 64), 1), covered((64, 64), 2)
    assert one.equal(same)
    assert not one.equal(other)
    assert 0.25 < float(covered((256, 256), 3).float().mean()) < 0.75


def test_the_area_below_the_roc_curve_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 200).astype(float), generator.normal(size=200).round(1)
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert roc_auc(np.ones(3), np.zeros(3)) is None
