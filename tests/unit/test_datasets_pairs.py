"""Folders of images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.datasets.collection import DataSetRefused, pseudonym
from models.datasets.loading import ItemUnreadable, load
from models.datasets.pairs import Pairs, read_pairs
from models.datasets.source import open_dataset
from tests.pictures import lungs, noise, picture, radiograph, volume


def test_folders_with_the_same_names(tmp_path: Path) -> None:
    lungs(tmp_path, 3)
    found = read_pairs(tmp_path, Pairs(classes=("lung",), name=r"(?P<subject>film_\d+)_\d_(?P<state>[01])"))
    assert [item.id for item in found] == ["film_000_0_0", "film_001_0_1", "film_002_0_0"]
    assert [item.subject for item in found] == ["film_000", "film_001", "film_002"]
    assert [item.attributes for item in found] == [{"state": 0.0}, {"state": 1.0}, {"state": 0.0}]
    assert found.classes == ("lung",)
    assert found.task == "segmentation"
    sample = load(found.items[0], classes=1)
    assert sample.image.shape == sample.mask.shape == (1, 48, 40)
    assert sample.mask.max() == 1


def test_suffixes_side_by_side(tmp_path: Path) -> None:
    volume(tmp_path / "a" / "one_t1.nii.gz", noise(1, (8, 9, 10)))
    volume(tmp_path / "a" / "one_seg.nii.gz", np.ones((8, 9, 10), np.uint8))
    volume(tmp_path / "two_t1.nii", noise(2, (8, 9, 10)))
    found = read_pairs(tmp_path, Pairs(image_suffix="_t1", mask_suffix="_seg", classes=("head",)))
    assert [item.id for item in found] == ["a/one"]
    assert [(each.row, each.reason) for each in found.skipped] == [("two", "there is no mask for it")]


def test_a_mask_without_an_image_is_listed(tmp_path: Path) -> None:
    lungs(tmp_path, 2)
    (tmp_path / "images" / "film_001_0_1.png").unlink()
    found = read_pairs(tmp_path)
    assert [(each.row, each.reason) for each in found.skipped] == [("film_001_0_1", "there is no image for this mask")]


def test_classes_of_a_decathlon_folder(tmp_path: Path) -> None:
    volume(tmp_path / "imagesTr" / "x.nii.gz", noise(1, (8, 9, 10)))
    volume(tmp_path / "labelsTr" / "x.nii.gz", np.ones((8, 9, 10), np.uint8))
    (tmp_path / "dataset.json").write_text('{"name": "Hippocampus", "labels": {"0": "background", "2": "posterior", "1": "anterior"}}')
    found = read_pairs(tmp_path)
    assert (found.name, found.classes) == ("Hippocampus", ("anterior", "posterior"))


def test_classes_are_counted_where_nobody_names_them(tmp_path: Path) -> None:
    values = np.zeros((8, 9, 10), np.uint8)
    values[0, 0, :2] = 1, 3
    volume(tmp_path / "images" / "x.nii", noise(1, (8, 9, 10)))
    volume(tmp_path / "labels" / "x.nii", values)
    assert read_pairs(tmp_path).classes == ("label 1", "label 2", "label 3")
    assert read_pairs(lungs(tmp_path / "black-and-white", 1)).classes == ("foreground",)


def test_dicom_subjects_are_pseudonyms_and_attributes_come_from_the_header(tmp_path: Path) -> None:
    radiograph(tmp_path / "images" / "a.dcm", noise(1), patient="ID-1")
    radiograph(tmp_path / "images" / "b.dcm", noise(2), patient="ID-1")
    picture(tmp_path / "labels" / "a.png", noise(1) * 0)
    picture(tmp_path / "labels" / "b.png", noise(1) * 0)
    (tmp_path / "images" / "broken.dcm").write_bytes(b"no DICOM at all")
    found = read_pairs(tmp_path, Pairs(classes=("lung",)))
    assert {item.subject for item in found} == {pseudonym("ID-1")}
    assert "ID-1" not in repr(found.items)
    assert "Doe" not in repr(found.items)
    assert found.items[0].attributes == {"modality": "CR", "sex": "F", "view": "PA", "age": 61.0}
    assert [(each.row, each.reason) for each in found.skipped] == [("broken.dcm", "it cannot be read as DICOM")]
    assert load(found.items[0]).image.meta["spacing_known"] is False


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda image, mask: image.write_bytes(image.read_bytes()[:-200]), "the file ends too early or is damaged"),
        (lambda image, mask: image.write_bytes(b""), "cannot be read"),
        (lambda image, mask: image.unlink(), "there is no such file"),
        (lambda image, mask: volume(image, np.full((8, 9, 10), np.nan, np.float32)), "not finite"),
        (lambda image, mask: volume(image, noise(1, (8, 9, 11))), "another size than the image (8x9x10 against 8x9x11)"),
        (lambda image, mask: volume(mask, np.full((8, 9, 10), 5, np.uint8)), "the mask has the label 5; the labels end at 2"),
        (lambda image, mask: volume(mask, np.full((8, 9, 10), 0.5, np.float32)), "no labels (negative, fractional or not finite)"),
        (lambda image, mask: volume(mask, np.full((8, 9, 10), -1, np.int16)), "no labels (negative, fractional or not finite)"),
        (lambda image, mask: volume(image, np.zeros((8, 9, 10, 2), np.uint8)), "4 axes; an image has two or three"),
    ],
)
def test_damaged_pairs_are_refused_with_the_reason(tmp_path: Path, damage: object, reason: str) -> None:
    image = volume(tmp_path / "images" / "x.nii.gz", noise(1, (8, 9, 10)))
    mask = volume(tmp_path / "labels" / "x.nii.gz", np.ones((8, 9, 10), np.uint8))
    item = read_pairs(tmp_path, Pairs(classes=("a", "b"))).items[0]
    damage(image, mask)  # type: ignore[operator]
    with pytest.raises(ItemUnreadable) as refused:
        load(item, classes=2)
    assert reason in refused.value.reason
    assert "x.nii.gz" in refused.value.where


def test_a_mask_elsewhere_in_the_patient_is_told(tmp_path: Path) -> None:
    volume(tmp_path / "images" / "x.nii.gz", noise(1, (8, 9, 10)))
    volume(tmp_path / "labels" / "x.nii.gz", np.ones((8, 9, 10), np.uint8), spacing=(1.0, 1.0, 5.0))
    mask = load(read_pairs(tmp_path).items[0]).mask
    assert mask is not None
    assert mask.meta["other_grid"] is True


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("nowhere", "it names no data set"),
        ("tree:/x", "'tree' is no kind of data set"),
        ("pairs:{here}?classe=a", "did you mean 'classes'?"),
        ("pairs:{here}/none", "there is no such folder"),
        ("pairs:{here}", "there is no usable image"),
        ("pairs:{here}?masks=elsewhere", "there is no such folder"),
        ("pairs:{here}?name=(", "is no regular expression"),
        ("{here}/none.toml", "it cannot be read as TOML"),
        ("{here}/empty.toml", "it needs a table [data]"),
    ],
)
def test_words_that_name_no_data(tmp_path: Path, word: str, reason: str) -> None:
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(DataSetRefused, match=r".") as refused:
        open_dataset(word.format(here=tmp_path))
    assert reason in str(refused.value)


def test_a_data_set_in_a_toml_file(tmp_path: Path) -> None:
    lungs(tmp_path / "lungs", 2)
    (tmp_path / "data.toml").write_text('[data]\nkind = "pairs"\npath = "lungs"\nclasses = ["lung"]\ntitle = "My films"\n')
    found = open_dataset(str(tmp_path / "data.toml"))
    assert (found.name, found.classes, len(found)) == ("My films", ("lung",), 2)


@pytest.mark.real_data
def test_hippocampus(real_data: Path) -> None:
    found = open_dataset(f"pairs:{real_data / 'hippocampus'}?classes=anterior,posterior")
    assert len(found) == 150
    assert found.skipped == ()
    sample = load(found.items[0], classes=2)
    assert sample.image.shape == sample.mask.shape
    assert sample.mask.meta["other_grid"] is False


@pytest.mark.real_data
def test_montgomery(real_data: Path) -> None:
    found = open_dataset(rf"pairs:{real_data / 'cxr-lungs'}?classes=lung&name=(?P<subject>MCUCXR_\d+)_(?P<tb>[01])")
    assert len(found) == len({item.subject for item in found}) == 138
    assert sum(item.attributes["tb"] == 1 for item in found) == 58


def test_a_picture_of_floating_point_numbers(tmp_path: Path) -> None:
    item = read_pairs(picture(tmp_path / "x.tif", noise(1).astype(np.float32)).parent, Pairs(labelled=False)).items[0]
    assert load(item).image.max() == noise(1).max()
