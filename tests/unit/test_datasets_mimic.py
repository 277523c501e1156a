"""MIMIC: chest films joined with clinical tables; what does not join is listed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydicom import dcmread

from models.datasets.collection import DataSetRefused
from models.datasets.loading import load
from models.datasets.source import open_dataset
from models.datasets.splits import from_attributes
from tests.pictures import noise, radiograph

PATIENTS = (
    "row_id,subject_id,gender,dob,dod\n1,10006,F,2094-03-05 00:00:00,\n2,10011,M,1826-06-05 00:00:00,\n3,10013,F,2090-01-01 00:00:00,\n"
)
ADMISSIONS = (
    "subject_id,hadm_id,admittime,dischtime,admission_type,ethnicity\n"
    "10006,142345,2164-10-23 21:09:00,2164-11-01 17:15:00,EMERGENCY,WHITE\n"
    "10011,105331,2126-08-14 22:32:00,2126-08-28 18:59:00,ELECTIVE,\n"
)
DIAGNOSES = "subject_id,hadm_id,seq_num,icd9_code\n10006,142345,1,486\n10011,105331,1,4280\n10013,999,1,486\n10013,999,2,486\n"
METADATA = (
    "dicom_id,subject_id,study_id,ViewPosition,StudyDate,StudyTime\n"
    "a,10006,51,PA,21641024,93059.5\nb,10006,51,LATERAL,21641024,093101\nc,10011,52,AP,21260815,120000.0\n"
    "gone,10006,51,PA,21641024,093059\nmoved,10011,77,PA,21260815,120000\nd,10099,53,PA,21260815,120000\nlate,10011,54,PA,21990101,120000\n"
)
SPLIT = "dicom_id,study_id,subject_id,split\na,51,10006,train\nb,51,10006,train\nc,52,10011,validate\nlate,54,10011,validate\n"
CHEXPERT = "subject_id,study_id,Edema,Pneumonia\n10006,51,1.0,-1.0\n10011,52,,0.0\n10011,54,0.0,\n10099,53,1.0,\n"


def tree(root: Path) -> Path:
    for name, subject, study in (
        ("a", 10006, 51),
        ("b", 10006, 51),
        ("c", 10011, 52),
        ("late", 10011, 54),
        ("moved", 10011, 52),
        ("d", 10099, 53),
        ("x", 10006, 51),
    ):
        radiograph(root / "cxr" / "files" / "p10" / f"p{subject}" / f"s{study}" / f"{name}.dcm", noise(ord(name[0])))
    (root / "cxr" / "files" / "p10" / "p10006" / "index.html").write_text("")
    tables = {
        "cxr/mimic-cxr-2.0.0-metadata.csv": METADATA,
        "cxr/mimic-cxr-2.0.0-split.csv": SPLIT,
        "cxr/mimic-cxr-2.0.0-chexpert.csv": CHEXPERT,
    }
    tables |= {"clinic/PATIENTS.csv": PATIENTS, "clinic/ADMISSIONS.csv": ADMISSIONS, "clinic/DIAGNOSES_ICD.csv": DIAGNOSES}
    for name, text in tables.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def test_films_are_joined_with_the_clinical_tables(tmp_path: Path) -> None:
    found = open_dataset(f"mimic:{tree(tmp_path)}")
    by_id = {item.id: item for item in found}
    assert set(by_id) == {"a", "b", "c", "late"}
    first = by_id["a"]
    assert (first.subject, first.labels) == ("10006", {"Edema": 1.0})
    assert first.attributes == {
        "view": "PA",
        "split": "train",
        "sex": "F",
        "age": 70.6,
        "admission_type": "EMERGENCY",
        "ethnicity": "WHITE",
    }
    assert first.provenance["admission"] == "142345"
    assert by_id["c"].attributes["age"] == 90.0  # 300 years, as MIMIC hides the oldest
    assert "admission_type" not in by_id["late"].attributes
    assert found.classes == ("Edema", "Pneumonia")
    assert from_attributes(found) == {"a": "train", "b": "train", "c": "validation", "late": "validation"}
    assert load(first).image.shape == (1, 48, 40)


def test_what_does_not_join_is_listed(tmp_path: Path) -> None:
    found = open_dataset(f"mimic:{tree(tmp_path)}")
    assert sorted((Path(each.where).name, each.row, each.reason) for each in found.skipped) == [
        ("DIAGNOSES_ICD.csv", "line 4", "the admission 999 is not in ADMISSIONS"),
        ("PATIENTS.csv", "line 4", "there is no image of this subject"),
        ("d.dcm", "d", "its subject is not in PATIENTS"),
        ("mimic-cxr-2.0.0-metadata.csv", "line 5", "there is no image gone for this row"),
        ("moved.dcm", "moved", "line 6 of mimic-cxr-2.0.0-metadata.csv says that it is of another subject or study than its folder"),
        ("x.dcm", "x", "there is no row for this image in mimic-cxr-2.0.0-metadata.csv"),
    ]


def test_labels_from_diagnoses(tmp_path: Path) -> None:
    found = open_dataset(f"mimic:{tree(tmp_path)}?labels=icd&codes=pneumonia:480:486,failure:428&views=PA,AP")
    assert found.classes == ("pneumonia", "failure")
    assert {item.id: item.labels for item in found} == {
        "a": {"pneumonia": 1.0, "failure": 0.0},
        "c": {"pneumonia": 0.0, "failure": 1.0},
    }
    assert "it was taken during no admission of its subject, so no diagnosis belongs to it" in {each.reason for each in found.skipped}


def test_an_uncertain_label_counts_as_it_is_told_to(tmp_path: Path) -> None:
    by_id = {item.id: item for item in open_dataset(f"mimic:{tree(tmp_path)}?uncertain=positive")}
    assert by_id["a"].labels == {"Edema": 1.0, "Pneumonia": 1.0}


def test_the_tables_of_mimic_iv(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "clinic" / "PATIENTS.csv").rename(tmp_path / "clinic" / "patients.csv")
    (tmp_path / "clinic" / "patients.csv").write_text("subject_id,gender,anchor_age,anchor_year\n10006,F,52,2160\n10011,M,91,2126\n")
    ages = {item.id: item.attributes["age"] for item in open_dataset(f"mimic:{tmp_path}")}
    assert (ages["a"], ages["c"]) == (56.0, 90.0)


@pytest.mark.parametrize(
    ("options", "damage", "reason"),
    [
        ("", lambda root: shutil.rmtree(root / "cxr" / "files"), "there is no folder 'files'"),
        ("?labels=negbio", lambda root: None, "there is no table mimic-cxr-...-negbio.csv"),
        ("?labels=words", lambda root: None, "labels is chexpert, negbio, icd, none"),
        ("?clinical=none", lambda root: None, "there is no such folder"),
        ("?labels=icd", lambda root: (root / "clinic" / "DIAGNOSES_ICD.csv").unlink(), "there is no table DIAGNOSES_ICD"),
        ("", lambda root: (root / "clinic" / "PATIENTS.csv").write_text("id\n1\n"), "there is no column subject_id"),
        ("", lambda root: (root / "cxr" / "mimic-cxr-2.0.0-metadata.csv").write_bytes(b"\xff\xff"), "it cannot be read as a table"),
    ],
)
def test_what_is_no_mimic(tmp_path: Path, options: str, damage: object, reason: str) -> None:
    damage(tree(tmp_path))  # type: ignore[operator]
    with pytest.raises(DataSetRefused) as refused:
        open_dataset(f"mimic:{tmp_path}{options}")
    assert reason in str(refused.value)


@pytest.mark.real_data
def test_the_demo_tables_with_a_real_film(real_data: Path, tmp_path: Path) -> None:
    """The films of MIMIC-CXR are not public: a real one stands in for those of three subjects."""
    rows = ["dicom_id,subject_id,study_id,ViewPosition,StudyDate,StudyTime"]
    for number, (subject, when) in enumerate((("10006", "21641024"), ("10011", "21260815"), ("10013", "21000101")), start=1):
        folder = tmp_path / "files" / "p10" / f"p{subject}" / f"s5000{number}"
        folder.mkdir(parents=True)
        film = dcmread(real_data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm")
        film.PatientID, film.StudyDate = subject, when
        film.save_as(folder / f"film{number}.dcm")
        rows.append(f"film{number},{subject},5000{number},PA,{when},120000")
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join([*rows, "film9,10017,50009,PA,21500101,120000"]) + "\n")
    found = open_dataset(f"mimic:{tmp_path}?clinical={real_data / 'mimic-iii-demo'}&labels=none")
    assert len(found) == 3
    assert [(item.attributes["sex"], item.provenance.get("admission")) for item in found] == [("F", "142345"), ("F", "105331"), ("F", None)]
    reasons = [each.reason for each in found.skipped]
    assert reasons.count("there is no image of this subject") == 97
    assert reasons.count("there is no image film9 for this row") == 1
    assert any(reason.endswith("is not in ADMISSIONS") for reason in reasons)
    assert load(found.items[0]).image.meta["modality"]
    diagnosed = open_dataset(f"mimic:{tmp_path}?clinical={real_data / 'mimic-iii-demo'}&labels=icd&codes=sepsis:99591:99592")
    assert next(iter(diagnosed)).labels == {"sepsis": 1.0}
