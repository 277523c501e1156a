"""MIMIC: chest films in the layout of MIMIC-CXR, joined with clinical tables by subject and admission.

    files/p10/p10000032/s50414267/<dicom_id>.dcm      (.jpg in MIMIC-CXR-JPG)
    mimic-cxr-2.0.0-metadata.csv[.gz]                 dicom_id subject_id study_id ViewPosition StudyDate StudyTime ...
    mimic-cxr-2.0.0-split.csv[.gz]                    dicom_id study_id subject_id split
    mimic-cxr-2.0.0-chexpert.csv[.gz], -negbio        subject_id study_id and a column for each finding: 1, 0, -1 (uncertain) or nothing
    PATIENTS ADMISSIONS DIAGNOSES_ICD .csv[.gz]       of MIMIC-III, or the tables of those names of MIMIC-IV

The clinical tables are those whose subject_id is that of the images: MIMIC-CXR shares its subjects with MIMIC-IV; MIMIC-III
has the same columns. An image belongs to the admission during which it was taken (or whose hadm_id the metadata name).
What does not join is listed: a row without an image, an image without a row, a subject without either, a diagnosis of an
admission that is not in ADMISSIONS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from models.datasets.collection import Collection, DataSetRefused, collect, natural, stem
from models.datasets.csvfile import Row, find, number, rows
from models.datasets.protocol import Item, Skipped
from models.datasets.table import Uncertain, stated

Labels = Literal["chexpert", "negbio", "icd", "none"]

#: ICD-9 and ICD-10 codes, by their beginning, that a chest film may show.
CODES: Mapping[str, tuple[str, ...]] = {
    "pneumonia": ("480", "481", "482", "483", "484", "485", "486", "J12", "J13", "J14", "J15", "J16", "J17", "J18"),
    "heart failure": ("428", "I50"),
    "pleural effusion": ("511", "J90", "J91"),
    "pneumothorax": ("512", "J93"),
}

#: Ages above 89 are hidden in MIMIC (dates of birth are moved by 300 years); all of them count as this.
OLDEST = 90.0


@dataclass(frozen=True)
class Patient:
    """A row of PATIENTS."""

    row: int
    sex: str
    born: datetime | None
    anchor: tuple[float, float] | None

    def age(self, when: datetime | None) -> float | None:
        """Years at a moment."""
        if when is None:
            return None
        if self.anchor is not None:
            age, year = self.anchor
            return min(age + when.year - year, OLDEST)
        if self.born is None:
            return None
        years = (when - self.born).days / 365.25
        return OLDEST if years > 89 else round(years, 1)


@dataclass(frozen=True)
class Admission:
    """A row of ADMISSIONS."""

    id: str
    start: datetime | None
    end: datetime | None
    attributes: Mapping[str, str]


@dataclass
class Clinic:
    """The clinical tables."""

    folder: Path | None = None
    tables: dict[str, Path] = field(default_factory=dict)
    patients: dict[str, Patient] = field(default_factory=dict)
    admissions: dict[str, list[Admission]] = field(default_factory=dict)
    diagnoses: dict[str, set[str]] = field(default_factory=dict)

    def admission(self, subject: str, when: datetime | None, named: str) -> Admission | None:
        """The admission that was named, or the one during which something happened."""
        for each in self.admissions.get(subject, ()):
            if named and each.id == named:
                return each
            if not named and when and each.start and each.end and each.start <= when <= each.end:
                return each
        return None


@dataclass(frozen=True)
class _Image:
    id: str
    subject: str
    study: str
    path: Path


@dataclass
class _Films:
    """The tables of MIMIC-CXR, by image or by study."""

    metadata: dict[str, tuple[int, Row]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    labels: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)


def read_mimic(
    root: Path,
    *,
    clinical: Path | None = None,
    labels: Labels = "chexpert",
    classes: Sequence[str] = (),
    codes: Mapping[str, tuple[str, ...]] | None = None,
    uncertain: Uncertain = "ignore",
    views: Sequence[str] = (),
    name: str = "MIMIC",
) -> Collection:
    """Read chest films with their labels, and what the clinical tables know of them.

    Parameters
    ----------
    root
        Holds ``files`` and the tables of MIMIC-CXR, itself or in a folder below.
    clinical
        Folder of the clinical tables; default: wherever below the root PATIENTS is. Without any, images stand alone.
    labels
        From which table; ``icd``: 1 where the admission has a diagnosis whose code begins with one of ``codes``.
    views
        View positions that count (PA, AP, LATERAL, ...); default: all.

    Raises
    ------
    DataSetRefused
        There are no images, or a table that was asked for is missing.
    """
    base = _base(root)
    skipped: list[Skipped] = []
    clinic = _clinic(clinical or _clinical_folder(root), skipped)
    films = _films(base, labels, uncertain)
    if labels == "icd" and not clinic.diagnoses:
        raise DataSetRefused(clinic.folder or root, "there is no table DIAGNOSES_ICD for labels from diagnoses")
    chosen = codes or CODES
    items: list[Item] = []
    seen: set[str] = set()
    for image in _images(base, skipped):
        seen.add(image.id)
        try:
            item = _item(image, films, clinic, labels, chosen)
        except ValueError as error:
            skipped.append(Skipped(str(image.path), image.id, str(error)))
            continue
        if not views or str(item.attributes.get("view", "")) in views:
            items.append(item)
    skipped += _without_image(films, clinic, seen, {item.subject for item in items} | {each.subject for each in _images(base, [])})
    found = tuple(chosen) if labels == "icd" else tuple(sorted({label for item in items for label in item.labels}))
    task: Literal["classification", "none"] = "none" if labels == "none" else "classification"
    return collect(name, task, tuple(classes) or found, items, skipped, base)


def _base(root: Path) -> Path:
    for folder in (root, *sorted(path for path in root.glob("*") if path.is_dir())):
        if (folder / "files").is_dir():
            return folder
    raise DataSetRefused(root, "there is no folder 'files' with images, as MIMIC-CXR has it")


def _clinical_folder(root: Path) -> Path | None:
    for pattern in ("", "*", "*/*"):
        for folder in [root] if not pattern else sorted(root.glob(pattern)):
            if folder.is_dir() and folder.name != "files" and _table(folder, "patients"):
                return folder
    return None


def _table(folder: Path, name: str) -> Path | None:
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() in (f"{name}.csv", f"{name}.csv.gz")), None)


def _moment(text: str, clock: str = "") -> datetime | None:
    """A moment as MIMIC's tables write it, or a date and a time of DICOM (PS3.5 section 6.2)."""
    digits = re.sub(r"\D", "", text)
    time = re.sub(r"\..*", "", clock).replace(":", "").zfill(6) if clock else digits[8:14] or "000000"
    try:
        return datetime.strptime(digits[:8] + time[:6].ljust(6, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _clinic(folder: Path | None, skipped: list[Skipped]) -> Clinic:
    if folder is None:
        return Clinic()
    if not folder.is_dir():
        raise DataSetRefused(folder, "there is no such folder")
    clinic = Clinic(folder)
    for name in ("patients", "admissions", "diagnoses_icd"):
        path = _table(folder, name)
        if path is not None:
            clinic.tables[name] = path
    if "patients" not in clinic.tables:
        raise DataSetRefused(folder, "there is no table PATIENTS")
    for line, row in _named(clinic.tables["patients"], "subject_id"):
        age, year = number(row.get("anchor_age", "")), number(row.get("anchor_year", ""))
        anchor = (age, year) if age is not None and year is not None else None
        clinic.patients[row["subject_id"]] = Patient(line, row.get("gender", ""), _moment(row.get("dob", "")), anchor)
    _read_admissions(clinic, skipped)
    return clinic


def _read_admissions(clinic: Clinic, skipped: list[Skipped]) -> None:
    known: set[str] = set()
    path = clinic.tables.get("admissions")
    for _, row in _named(path, "subject_id", "hadm_id") if path else ():
        wanted = {"admission_type": "admission_type", "ethnicity": "ethnicity", "race": "ethnicity", "insurance": "insurance"}
        attributes = {ours: row[theirs] for theirs, ours in wanted.items() if row.get(theirs)}
        admission = Admission(row["hadm_id"], _moment(row.get("admittime", "")), _moment(row.get("dischtime", "")), attributes)
        clinic.admissions.setdefault(row["subject_id"], []).append(admission)
        known.add(admission.id)
    path = clinic.tables.get("diagnoses_icd")
    told: set[str] = set()
    for line, row in _named(path, "subject_id", "hadm_id") if path else ():
        code = row.get("icd9_code") or row.get("icd_code", "")
        clinic.diagnoses.setdefault(row["hadm_id"], set()).add(code)
        if known and row["hadm_id"] not in known | told:
            told.add(row["hadm_id"])
            skipped.append(Skipped(str(path), f"line {line}", f"the admission {row['hadm_id']} is not in ADMISSIONS"))


def _named(path: Path, *columns: str) -> Iterator[tuple[int, Row]]:
    """Rows with lower-case names of columns; MIMIC-III has published both."""
    for line, row in rows(path):
        lowered = {key.lower(): value for key, value in row.items()}
        missing = [each for each in columns if each not in lowered]
        if missing:
            raise DataSetRefused(path, f"there is no column {missing[0]}", f"line {line}")
        yield line, lowered


def _films(base: Path, labels: Labels, uncertain: Uncertain) -> _Films:
    films = _Films()
    for kind in ("metadata", "split", "chexpert", "negbio"):
        path = next((each for each in sorted(base.glob(f"*{kind}.csv*")) if each.name.endswith((".csv", ".csv.gz"))), None)
        if path is not None:
            films.paths[kind] = path
    if labels in ("chexpert", "negbio") and labels not in films.paths:
        raise DataSetRefused(base, f"there is no table mimic-cxr-...-{labels}.csv; say labels=none, negbio, chexpert or icd")
    if "metadata" in films.paths:
        films.metadata = {
            row["dicom_id"]: (line, row) for line, row in _named(films.paths["metadata"], "dicom_id", "subject_id", "study_id")
        }
    if "split" in films.paths:
        films.splits = {row["dicom_id"]: row.get("split", "") for _, row in _named(films.paths["split"], "dicom_id")}
    for _, row in rows(films.paths[labels]) if labels in films.paths else ():
        columns = list(row)
        subject, study = find(columns, "subject_id", ()), find(columns, "study_id", ())
        if subject is None or study is None:
            raise DataSetRefused(films.paths[labels], "there is no column subject_id or study_id", "line 1")
        values = {each: number(row[each]) for each in columns if each not in (subject, study)}
        films.labels[row[subject], row[study]] = stated({each: value for each, value in values.items() if value is not None}, uncertain)
    return films


def _images(base: Path, skipped: list[Skipped]) -> Iterator[_Image]:
    for path in sorted((base / "files").glob("p*/p*/s*/*"), key=lambda each: natural(each.as_posix())):
        if not path.name.lower().endswith((".dcm", ".jpg", ".png")):
            continue
        subject, study = re.fullmatch(r"p(\d+)", path.parts[-3]), re.fullmatch(r"s(\d+)", path.parts[-2])
        if subject and study:
            yield _Image(stem(path), subject[1], study[1], path)
        else:
            skipped.append(Skipped(str(path), path.name, "its folders name no subject and study (p<number>/s<number>)"))


def _item(image: _Image, films: _Films, clinic: Clinic, labels: Labels, codes: Mapping[str, tuple[str, ...]]) -> Item:
    row = _metadata(image, films)
    patient = clinic.patients.get(image.subject)
    if clinic.patients and patient is None:
        raise ValueError("its subject is not in PATIENTS")
    when = _moment(row.get("studydate", ""), row.get("studytime", "")) if row.get("studydate") else None
    admission = clinic.admission(image.subject, when, row.get("hadm_id", ""))
    attributes: dict[str, str | float] = dict(admission.attributes) if admission else {}
    if row.get("viewposition"):
        attributes["view"] = row["viewposition"]
    if films.splits.get(image.id):
        attributes["split"] = films.splits[image.id]
    if patient is not None:
        age = patient.age(when or (admission.start if admission else None))
        attributes |= {"sex": patient.sex} if patient.sex else {}
        attributes |= {} if age is None else {"age": age}
    provenance = {"source": "MIMIC", "row": image.id, "study": image.study} | ({"admission": admission.id} if admission else {})
    known = _labels(image, films, clinic, admission, labels, codes)
    return Item(image.id, image.subject, (image.path,), labels=known, attributes=attributes, provenance=provenance)


def _metadata(image: _Image, films: _Films) -> Row:
    if "metadata" not in films.paths:
        return {}
    if image.id not in films.metadata:
        raise ValueError(f"there is no row for this image in {films.paths['metadata'].name}")
    line, row = films.metadata[image.id]
    if (row["subject_id"], row["study_id"]) != (image.subject, image.study):
        raise ValueError(f"line {line} of {films.paths['metadata'].name} says that it is of another subject or study than its folder")
    return row


def _labels(
    image: _Image, films: _Films, clinic: Clinic, admission: Admission | None, labels: Labels, codes: Mapping[str, tuple[str, ...]]
) -> dict[str, float]:
    if labels == "none":
        return {}
    if labels == "icd":
        if admission is None:
            raise ValueError("it was taken during no admission of its subject, so no diagnosis belongs to it")
        diagnosed = clinic.diagnoses.get(admission.id, set())
        return {each: float(any(code.startswith(prefixes) for code in diagnosed)) for each, prefixes in codes.items()}
    found = films.labels.get((image.subject, image.study))
    if not found:
        raise ValueError(f"{films.paths[labels].name} states no label for its study")
    return found


def _without_image(films: _Films, clinic: Clinic, images: set[str], subjects: set[str]) -> Iterator[Skipped]:
    for identifier, (line, _) in films.metadata.items():
        if identifier not in images:
            yield Skipped(str(films.paths["metadata"]), f"line {line}", f"there is no image {identifier} for this row")
    for subject, patient in clinic.patients.items():
        if subject not in subjects:
            yield Skipped(str(clinic.tables["patients"]), f"line {patient.row}", "there is no image of this subject")
