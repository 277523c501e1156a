"""Tables of images, and PASCAL VOC."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from models.datasets.collection import DataSetRefused
from models.datasets.protocol import Box
from models.datasets.source import open_dataset
from models.datasets.table import Columns, read_table
from models.datasets.voc import read_voc
from tests.pictures import noise, picture

NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"


def chest(folder: Path, rows: str, head: str = NIH) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        picture(folder / "images_001" / "images" / name, noise(ord(name[0])))
    (folder / "Data_Entry.csv").write_text(head + rows)
    return folder / "Data_Entry.csv"


def test_a_table_of_chest_films(tmp_path: Path) -> None:
    path = chest(tmp_path, "a.png,Cardiomegaly|Emphysema,1,7,058Y,M,PA\nb.png,No Finding,0,8,61,Female,AP\n")
    found = read_table(path)
    assert (found.name, found.task, found.classes) == ("Data_Entry", "classification", ("Cardiomegaly", "Emphysema"))
    first, second = found
    assert (first.id, first.subject, first.labels) == ("a", "7", {"Cardiomegaly": 1.0, "Emphysema": 1.0})
    assert first.attributes == {"age": 58.0, "sex": "M", "view": "PA"}
    assert second.labels == {"Cardiomegaly": 0.0, "Emphysema": 0.0}
    assert second.attributes["sex"] == "F"
    assert first.image[0].is_file()


def test_rows_that_say_nothing_usable_are_skipped_with_their_line(tmp_path: Path) -> None:
    rest = ",58,M,PA\n"
    rows = "".join(each + rest for each in ("a.png,Mass,1,7", "gone.png,Mass,1,7", "b.png,Mass,1,", "b.png,,1,7", "../x.png,Mass,1,7"))
    rows += ",,,,,,\na,Mass,1,7\n"
    found = read_table(chest(tmp_path, rows))
    assert len(found) == 1
    assert {(each.row, each.reason) for each in found.skipped} == {
        ("line 3", "there is no image gone.png"),
        ("line 4", "it names no patient"),
        ("line 5", "it states no label"),
        ("line 6", "the image's path leads out of the folder"),
        ("line 7", "no image is named"),
        ("line 8", "there is another item with the id a"),
    }
    assert all(each.where.endswith("Data_Entry.csv") for each in found.skipped)


def test_columns_of_numbers_and_uncertain_labels(tmp_path: Path) -> None:
    path = chest(tmp_path, "a,1.0,-1.0,q1,A\nb,0.0,,q2,B\nc,,,q3,B\n", "dicom_id,Edema,Pneumonia,subject_id,hospital\n")
    found = read_table(path, Columns(labels=("Edema", "Pneumonia")))
    assert [item.labels for item in found] == [{"Edema": 1.0}, {"Edema": 0.0}]
    assert [item.attributes for item in found] == [{"site": "A"}, {"site": "B"}]
    assert [(each.row, each.reason) for each in found.skipped] == [("line 4", "it states no label")]
    assert read_table(path, Columns(labels=("Edema", "Pneumonia"), uncertain="positive")).items[0].labels == {
        "Edema": 1.0,
        "Pneumonia": 1.0,
    }


def test_a_table_with_masks(tmp_path: Path) -> None:
    path = chest(tmp_path, "a.png,b.png\n", "file,outline\n")
    found = read_table(path, Columns(mask="outline", classes=("lung",)))
    assert (found.task, found.classes, found.items[0].mask.name) == ("segmentation", ("lung",), "b.png")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("?labels=Findings", "there is no column 'Findings'"),
        ("?images=none", "there is no such folder"),
        ("?uncertain=x", "uncertain is ignore"),
    ],
)
def test_what_a_table_does_not_have(tmp_path: Path, options: str, reason: str) -> None:
    chest(tmp_path, "a.png,Mass,1,7,58,M,PA\n")
    with pytest.raises(DataSetRefused, match=reason):
        open_dataset(f"table:{tmp_path}/Data_Entry.csv{options}")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"x,y\n1,2\n", NIH.encode(), gzip.compress(NIH.encode(), mtime=0)[:-9]])
def test_what_is_no_table_of_images(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("x.csv.gz" if content[:2] == b"\x1f\x8b" else "x.csv")
    path.write_bytes(content)
    with pytest.raises(DataSetRefused, match=r"x\.csv"):
        read_table(path)


def annotated(folder: Path, name: str, *boxes: str, size: str = "<size><width>48</width><height>40</height></size>") -> None:
    picture(folder / "JPEGImages" / f"{name}.jpg", noise(len(name)))
    objects = "".join(
        f"<object><name>cell</name><difficult>{n % 2}</difficult><bndbox>{box}</bndbox></object>" for n, box in enumerate(boxes)
    )
    path = folder / "Annotations" / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>")


def box(left: float, top: float, right: float, bottom: float) -> str:
    return f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"


def test_boxes_of_voc_count_from_one(tmp_path: Path) -> None:
    annotated(tmp_path / "BCCD", "one", box(1, 1, 48, 40), box(3, 4, 3, 4))
    annotated(tmp_path / "BCCD", "zero", box(0, 0, 49, 41))
    annotated(tmp_path / "BCCD", "none")
    found = {item.id: item for item in read_voc(tmp_path)}
    assert found["one"].boxes == (Box("cell", 0, 0, 48, 40), Box("cell", 2, 3, 3, 4, difficult=True))
    assert found["zero"].boxes == (Box("cell", 0, 0, 48, 40),)
    assert found["none"].boxes == ()


def test_annotations_that_cannot_be_used_are_skipped_with_object_and_reason(tmp_path: Path) -> None:
    annotated(tmp_path, "good", box(2, 2, 9, 9))
    annotated(tmp_path, "outside", box(2, 2, 9, 9), box(40, 2, 60, 9))
    annotated(tmp_path, "turned", box(9, 2, 2, 9))
    annotated(tmp_path, "words", box(2, 2, 9, 9).replace("9", "wide"))
    annotated(tmp_path, "other-size", box(2, 2, 9, 9), size="<size><width>480</width><height>400</height></size>")
    annotated(tmp_path, "imageless", box(2, 2, 9, 9))
    (tmp_path / "JPEGImages" / "imageless.jpg").unlink()
    (tmp_path / "Annotations" / "cut.xml").write_text("<annotation><object>")
    (tmp_path / "Annotations" / "bomb.xml").write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation>&a;</annotation>')
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("good\noutside\nmissing -1\n")
    found = read_voc(tmp_path)
    assert [item.id for item in found] == ["good"]
    assert found.items[0].attributes == {"split": "train"}
    reasons = {Path(each.where).stem: (each.row, each.reason) for each in found.skipped}
    assert reasons == {
        "outside": ("object 2", "its box (40, 2) to (60, 9) is outside of the image of 48x40 pixels"),
        "turned": ("object 1", "its box has no area"),
        "words": ("object 1", "its box has no four numbers"),
        "other-size": ("other-size", "the annotation is for an image of 480x400 pixels, and the image has 48x40"),
        "imageless": ("imageless", "there is no image for it"),
        "cut": ("cut", "the annotation cannot be read (ParseError)"),
        "bomb": ("bomb", "the annotation declares entities"),
        "Main": ("missing", "there is no annotation for it"),
    }
    clipped = {item.id: item for item in read_voc(tmp_path, clip=True)}
    assert clipped["outside"].boxes[1].x_max == 48
    assert len(read_voc(tmp_path, only="train")) == 1
    with pytest.raises(DataSetRefused, match="no such list"):
        read_voc(tmp_path, only="val")


@pytest.mark.real_data
def test_blood_cells(real_data: Path) -> None:
    found = open_dataset(f"voc:{real_data / 'voc-bccd'}?classes=RBC,WBC,Platelets")
    assert len(found) == 150
    assert {name: sum(each.label == name for item in found for each in item.boxes) for name in found.classes} == {
        "RBC": 1686,
        "WBC": 154,
        "Platelets": 153,
    }
    assert len(open_dataset(f"voc:{real_data / 'voc-bccd'}?set=test")) == 32


@pytest.mark.real_data
def test_chest_films_of_the_nih(real_data: Path) -> None:
    found = open_dataset(f"table:{real_data / 'cxr-nih' / 'labels.csv'}?labels=nih_finding_labels&split=split_by_patient")
    assert len(found) == 400
    assert found.skipped == ()
    assert "Pneumonia" in found.classes
    boxed = open_dataset(f"voc:{real_data / 'cxr-nih'}?annotations=voc_annotations&images=images")
    assert len(boxed) == 44
