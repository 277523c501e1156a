"""A training from pictures to a bundle that predicts, and what is refused before it starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.bundle import load_bundle, validate_bundle
from models.datasets.fingerprint import read_fingerprint
from models.predict import Predictor
from models.preprocess import Preprocessing
from models.training.config import parse_config, read_config, shipped
from models.training.errors import Diverged, TrainingRefused
from models.training.run import SilentListener, train, work_folder
from models.volume import read_volume
from tests.imaging import as_files
from tests.planar_bundle import radiograph
from tests.training_data import SEGMENTATION, Data, blobs, config, parts


class Heard(SilentListener):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return blobs(tmp_path_factory.mktemp("blobs"))


def test_a_training_ends_in_a_bundle_that_finds_what_it_was_shown(data: Data, tmp_path: Path) -> None:
    done = train(config(epochs="epochs = 25"), data, parts(data), tmp_path / "blobs")
    bundle = load_bundle(done.folder)
    assert validate_bundle(bundle) == []
    assert done.record.figures["dice.blob"] > 0.8
    values = np.asarray(Image.open(data.items[-1].image[0])).astype(np.int16)
    truth = np.asarray(Image.open(data.items[-1].mask)) > 0 if data.items[-1].mask else np.zeros(0)
    found = Predictor(bundle).predict(read_volume(as_files([radiograph(values)]), dimensions=2)).segments[0].mask[0]
    assert found.shape == truth.shape == (64, 64)
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.75


def test_the_bundle_says_what_it_was_made_from(data: Data, tmp_path: Path) -> None:
    settings = config()
    folder = train(settings, data, parts(data), tmp_path / "blobs").folder
    assert Preprocessing.from_bundle(load_bundle(folder)).digest == Preprocessing.from_config(list(settings.preprocessing)).digest
    assert read_fingerprint(folder / "fingerprint.json").items == 8
    record = json.loads((folder / "docs" / "training.json").read_text())
    assert record["counts"] == {"train": 8, "validation": 4, "test": 4}
    assert [row["epoch"] for row in record["curve"]] == [1, 2, 3, 4, 5, 6]
    card = (folder / "README.md").read_text()
    assert f"| dice.blob | {record['validation']['dice.blob']:.4f} | {record['figures']['dice.blob']:.4f} |" in card
    assert {path.name for path in tmp_path.iterdir()} == {"blobs", "blobs.training"}


def test_the_same_seed_gives_the_same_curve_and_workers_change_nothing(data: Data, tmp_path: Path) -> None:
    curves = []
    for number, workers in enumerate((0, 0, 1)):
        settings = config(threads=f"threads = 1\nworkers = {workers}", epochs="epochs = 2")
        record = train(settings, data, parts(data), tmp_path / str(number), cache=tmp_path / "cache").record
        curves.append([{name: value for name, value in row.items() if name != "seconds"} for row in record.curve])
    assert curves[0] == curves[1] == curves[2]


def test_prepared_items_are_kept_by_content(data: Data, tmp_path: Path) -> None:
    short = config(epochs="epochs = 1")
    train(short, data, parts(data), tmp_path / "one", cache=tmp_path / "cache")
    entries = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(entries) == len(data)
    next(iter(entries)).write_bytes(b"torn")
    train(short, data, parts(data), tmp_path / "two", cache=tmp_path / "cache")
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert set(again) == set(entries)
    assert sum(again[path] != entries[path] for path in entries) == 1


def test_training_stops_when_validation_gets_no_better(data: Data, tmp_path: Path) -> None:
    settings = config(average="average = 0.0\npatience = 2", epochs="epochs = 50", lr="lr = 0.0")
    assert len(train(settings, data, parts(data), tmp_path / "blobs").record.curve) == 3


def test_what_cannot_be_used_is_listed_and_the_rest_is_trained_on(data: Data, tmp_path: Path) -> None:
    small, strange, broken = (tmp_path / name for name in ("small.png", "strange.png", "broken.png"))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(small)
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(strange)
    broken.write_bytes(data.items[2].image[0].read_bytes()[:60])
    items = list(data.items)
    items[0] = dataclasses.replace(items[0], mask=small)
    items[1] = dataclasses.replace(items[1], mask=strange)
    items[2] = dataclasses.replace(items[2], image=(broken,))
    items[3] = dataclasses.replace(items[3], mask=None)
    heard = Heard()
    wrong = dataclasses.replace(data, items=items)
    record = train(config(epochs="epochs = 1"), wrong, parts(data), tmp_path / "blobs", listener=heard).record
    assert record.counts["train"] == 4
    assert {Path(each.where).name for each in record.skipped} == {"small.png", "strange.png", "broken.png", "3.png"}
    assert any("another size" in note for note in heard.notes)
    assert any("the label 7" in note for note in heard.notes)
    assert len((work_folder(tmp_path / "blobs") / "skipped.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("train_share", "validation_share", "sentence"),
    [(1.0, 0.0, "no usable item is in the part 'validation'"), (0.0, 0.5, "no usable item is in the part 'train'")],
)
def test_a_part_without_items_is_refused(data: Data, tmp_path: Path, train_share: float, validation_share: float, sentence: str) -> None:
    with pytest.raises(TrainingRefused, match=sentence):
        train(config(), data, parts(data, train_share, validation_share), tmp_path / "blobs")


def test_one_patient_is_refused(data: Data, tmp_path: Path) -> None:
    alike = dataclasses.replace(data, items=[dataclasses.replace(item, subject="the only one") for item in data])
    with pytest.raises(TrainingRefused, match="the data are of 1 subject"):
        train(config(), alike, parts(data), tmp_path / "blobs")


def test_a_subject_in_two_parts_is_refused(data: Data, tmp_path: Path) -> None:
    items = [dataclasses.replace(item, subject="subject0") if n in (0, 9) else item for n, item in enumerate(data)]
    with pytest.raises(TrainingRefused, match="1 subjects are both in train and validation"):
        train(config(), dataclasses.replace(data, items=items), parts(data), tmp_path / "blobs")


def test_a_class_that_nothing_shows_is_refused(data: Data, tmp_path: Path) -> None:
    more = dataclasses.replace(data, classes=("blob", "unicorn"))
    with pytest.raises(TrainingRefused, match="no item of the part 'train' shows unicorn"):
        train(config(out_channels="out_channels = 3"), more, parts(data), tmp_path / "blobs")


def test_a_network_of_the_wrong_width_is_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match="gives 5 channels; 2 are needed for blob"):
        train(config(out_channels="out_channels = 5"), data, parts(data), tmp_path / "blobs")


def test_an_existing_result_is_not_overwritten(data: Data, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    with pytest.raises(TrainingRefused, match="exists already"):
        train(config(), data, parts(data), tmp_path / "blobs")


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_item(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.training.segmentation import Segmentation

    honest = Segmentation.encode

    def poisoned(self: Segmentation, prepared, part):  # type: ignore[no-untyped-def]
        encoded = honest(self, prepared, part)
        if prepared.item.id == "blob3":
            encoded["image"] = encoded["image"] * float("nan")
        return encoded

    monkeypatch.setattr(Segmentation, "encode", poisoned)
    with pytest.raises(Diverged) as caught:
        train(config(), data, parts(data), tmp_path / "blobs")
    assert caught.value.items == ("blob3",)
    assert not (tmp_path / "blobs").exists()


def test_a_checkpoint_of_another_configuration_is_refused(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "blobs"
    train(config(epochs="epochs = 1"), data, parts(data), out)
    out.rename(tmp_path / "moved")
    with pytest.raises(TrainingRefused, match="go on with --resume"):
        train(config(epochs="epochs = 1"), data, parts(data), out)
    with pytest.raises(TrainingRefused, match="another configuration"):
        train(config(epochs="epochs = 2"), data, parts(data), out, resume=True)
    (work_folder(out) / "last.pt").write_bytes(b"nothing")
    with pytest.raises(TrainingRefused, match=r"last\.pt cannot be read"):
        train(config(epochs="epochs = 1"), data, parts(data), out, resume=True)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("epochs = 6", "epochs = 0", "'run.epochs'"),
        ("epochs = 6", "epochs = 6\nepoch = 5", r"unknown key 'run.epoch' \(did you mean 'epochs'\?\)"),
        ('"Resized"', '"os.system"', "is not of MONAI"),
        ('"UNet"', "\"$__import__('os').abort()\"", "is an expression"),
        ('"UNet"', '"builtins.eval"', "is not of MONAI"),
        ("train = 0.5", "train = 0.9", "add up to more than 1"),
        ("[run]", "[run", "not valid TOML"),
        ('value = "123037004"', 'value = ""', "segment"),
        ('task = "segmentation"', 'task = "fortune"', "'task'"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_key(old: str, new: str, sentence: str) -> None:
    assert old in SEGMENTATION
    with pytest.raises(TrainingRefused, match=sentence):
        parse_config(SEGMENTATION.replace(old, new, 1))


def test_parts_that_do_not_exist_or_fit_are_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match=r"\[network\] UNet: unexpected keyword|\[network\] UNet: .*drop_out"):
        train(config(dropout="drop_out = 0.1"), data, parts(data), tmp_path / "blobs")
    with pytest.raises(TrainingRefused, match="there is no device 'gpu'"):
        train(config(threads='device = "gpu"'), data, parts(data), tmp_path / "other")


@pytest.mark.parametrize("name", ["cxr_lungs", "hippocampus", "bccd"])
def test_the_shipped_configurations_can_be_read(name: str) -> None:
    settings = read_config(shipped(name))
    assert settings.dicom is not None
    assert settings.dicom["model"]["name"] == name


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(TrainingRefused, match="bccd, cxr_lungs, cxr_lungs_start, hippocampus"):
        shipped("nothing")
