"""The node's archive as a data set: images that a query finds, with labels from the SEG and SR objects of their studies."""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicom_node.datasets.deidentify import MAX_BYTES, OLDEST, Deidentifier, Pseudonyms, burned_in, subject_of, write
from dicom_node.datasets.labels import SEG_CLASSES, SR_CLASSES, Segments, label_map, read_segments, report_labels
from dicom_node.datasets.spoken import Spoken, about, agreement_labels, corrected_labels, rejected_runs, row, verdict_of, words_of
from dicom_node.errors import UsageError
from models.datasets.collection import Collection, collect
from models.datasets.protocol import Item, Skipped, Task
from models.errors import GeometryRefused
from models.pixels import refuse_inflation
from models.volume import Volume, read_volume
from storage import header_json, index
from storage.archive import Archive, StoredInstance
from storage.attributes import ATTRIBUTES, Level
from storage.errors import StorageError
from storage.feedback import REJECT, VERDICTS
from storage.query import Key, Query, QueryError, plan, stream

STUDY_UID, SERIES_UID, SOP_UID = 0x0020000D, 0x0020000E, 0x00080018
NOT_IMAGES = frozenset({"SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "DOC", "REG", "FID", "RWV", "PLAN", "AU", "ECG", "HD"})
HEADERS_AT_ONCE = 1000
FEEDBACK = "feedback"
TASKS: Mapping[str, Task] = {
    "segmentation": "segmentation",
    "classification": "classification",
    FEEDBACK: "classification",
    "none": "none",
}


@dataclass(frozen=True)
class Question:
    """What is asked of the archive.

    Parameters
    ----------
    keys
        DICOM keywords with what they must match (PS3.4 C.2.2.2: wildcard, range, list).
    task
        ``segmentation`` takes masks from SEG objects, ``classification`` labels from SR objects, ``none`` images alone; in both the
        radiologist's word stands over the model's.
    classes
        Of a segmentation, segment labels or ``code^scheme`` of their types in the order of their values; of a classification the
        labels to keep. Empty: all that are found, by name.
    verdicts
        Only images of which a finding was judged so (accept, modify, reject). Empty: all.
    of_feedback
        The labels are whether a radiologist accepted what a model found.
    """

    keys: tuple[tuple[str, str], ...]
    task: Task = "none"
    classes: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    of_feedback: bool = False


def parse_question(text: str) -> Question:
    """``Modality=CR&StudyDate=20240101-&task=segmentation&classes=Lungs``: DICOM keywords, and in lower case what is done with them.

    Raises
    ------
    UsageError
        A keyword that DICOM does not have, or a task that there is not.
    """
    keys, settings = [], {"task": "none", "classes": "", FEEDBACK: ""}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name in settings:
            settings[name] = value
        elif tag_for_keyword(name) is None:
            raise UsageError(
                f"'{name}' is no keyword of the DICOM dictionary (Modality, StudyDate), and neither task, classes nor feedback"
            )
        else:
            keys.append((name, value))
    if settings["task"] not in TASKS:
        raise UsageError(f"there is no task '{settings['task']}'; there are {', '.join(TASKS)}")
    classes, verdicts = (tuple(part.strip() for part in settings[name].split(",") if part.strip()) for name in ("classes", FEEDBACK))
    if unknown := set(verdicts) - set(VERDICTS):
        raise UsageError(f"there is no feedback '{unknown.pop()}'; there are {', '.join(VERDICTS)}")
    return Question(tuple(keys), TASKS[settings["task"]], classes, verdicts, settings["task"] == FEEDBACK)


@dataclass(frozen=True, eq=False)
class Found:
    """One item of the archive before it becomes one of a data set: the stored images of a series, or one radiograph."""

    uid: str
    study_uid: str
    images: tuple[StoredInstance, ...]
    header: Dataset

    @property
    def planar(self) -> bool:
        return not _placed(self.header)


class Labels:
    """The SEG and SR objects of one study."""

    def __init__(self, segments: Sequence[Segments], reports: Sequence[tuple[frozenset[str], Mapping[str, float]]]) -> None:
        self._segments = segments
        self._reports = reports

    def segments(self, found: Found) -> Segments | None:
        """The SEG that belongs to these images; what a person or another system sent before our own, of these the newest."""
        uids = {image.sop_uid for image in found.images}
        return next((each for each in self._segments if each.sources & uids), None)

    def values(self, found: Found) -> dict[str, float]:
        """Labels of all reports about these images, later ones over earlier ones."""
        uids = {image.sop_uid for image in found.images}
        return {name: value for images, labels in self._reports if images & uids for name, value in labels.items()}


class ArchiveDataSet:
    """Images of the archive as :class:`models.datasets.protocol.DataSet`; its files are copied below ``folder``.

    Parameters
    ----------
    pseudonyms
        What Patient IDs become; they are never told.
    deidentifier
        De-identifies the copies, ids and attributes; what it refuses is skipped.
    progress
        Called with (done, all) after every item.

    Raises
    ------
    UsageError
        The question asks for what cannot be matched.
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    skipped: Sequence[Skipped]

    def __init__(
        self,
        archive: Archive,
        question: Question,
        folder: Path,
        *,
        pseudonyms: Pseudonyms,
        deidentifier: Deidentifier | None = None,
        name: str = "archive",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.name = name
        self.task = question.task
        self._skipped: list[Skipped] = []
        self.skipped = self._skipped
        self._archive = archive
        self._folder = folder
        self._pseudonyms = pseudonyms
        self._deidentifier = deidentifier
        self._question = question
        self.spoken: list[tuple[Any, ...]] = []  # lines of the table of what radiologists said
        self.unstated = 0  # images that do not state whether they have burned-in annotation
        found = list(find(archive, question, self._skip))
        studies = dict.fromkeys(each.study_uid for each in found)
        self._words = {uid: words_of(archive.database, uid) for uid in studies}
        self._labels = {uid: self._read_labels(uid) for uid in studies}
        self.classes = question.classes or self._classes(found)
        self._items = []
        for number, each in enumerate(found, start=1):
            item = self._item(each)
            if item is not None:
                self._items.append(item)
            if progress is not None:
                progress(number, len(found))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def _classes(self, found: Sequence[Found]) -> tuple[str, ...]:
        names: set[str] = set()
        for each in found:
            labels = self._labels[each.study_uid]
            segments = labels.segments(each)
            if self.task == "segmentation":
                names.update(segments.names if segments else ())
            elif self.task == "classification":
                names.update(self._values(each))
        return tuple(sorted(names))

    def _read_labels(self, study_uid: str) -> Labels:
        stored = self._archive.instances(study_uid) if self.task != "none" else []
        emitted = _emitted(self._archive, stored)
        wrong = frozenset() if REJECT in self._question.verdicts else rejected_runs(self._words[study_uid])
        segments, reports = [], []
        for each in stored:
            try:
                if self.task == "segmentation" and each.sop_class_uid in SEG_CLASSES:
                    if emitted.get(each.sop_uid) in wrong:
                        self._skip(each.sop_uid, "a radiologist rejected or corrected this mask")
                        continue
                    segments.append((each.sop_uid not in emitted, read_segments(each.read())))
                elif self.task == "classification" and each.sop_class_uid in SR_CLASSES:
                    reports.append((each.sop_uid not in emitted, report_labels(each.read())))
            except (ValueError, OSError) as error:
                self._skip(each.sop_uid, str(error))
        # Of the same moment the one with the most frames: a part of a SEG that was split comes behind the whole.
        segments.sort(key=lambda pair: (pair[0], pair[1].made, int(pair[1].segmentation.NumberOfFrames)), reverse=True)
        reports.sort(key=lambda pair: pair[0])
        return Labels([each for _, each in segments], [each for _, each in reports])

    def _item(self, found: Found) -> Item | None:
        try:
            labels = self._labels[found.study_uid]
            words = self._about(found)
            if self._question.verdicts and verdict_of(words) not in self._question.verdicts:
                raise ValueError(f"no radiologist said {' or '.join(self._question.verdicts)} about it")
            values = {name: value for name, value in self._values(found).items() if name in self.classes}
            if self.task == "classification" and not values:
                what = "nobody judged a finding of it" if self._question.of_feedback else "no report about it names one of the classes"
                raise ValueError(what)
            segments = labels.segments(found)
            if self.task == "segmentation" and segments is None:
                raise ValueError("no segmentation refers to it")
            place = hashlib.sha256(self._pseudonyms.uid(found.uid).encode()).hexdigest()[:20]
            mask = None
            if segments is not None and self.task == "segmentation":
                volume = volume_of(found)
                mask = save_mask(label_map(segments, volume, self.classes), volume, self._folder / "masks" / f"{place}.nii.gz")
            files = self._copy(found, self._folder / "images" / place)
        except (ValueError, GeometryRefused, StorageError, OSError) as error:
            self._skip(found.uid, getattr(error, "sentence", "") or str(error))
            return None
        attributes = attributes_of(found.header)
        if self._deidentifier is not None:
            attributes = {name: value for name, value in attributes.items() if self._deidentifier.tells(name)}
        if words:
            attributes["feedback"] = verdict_of(words)
        subject = self._pseudonyms.subject(subject_of(found.header))
        self.spoken.extend(row(self._uid(found.uid), subject, each, found.header) for each in words)
        return Item(
            id=self._uid(found.uid),
            subject=subject,
            image=files,
            mask=mask,
            labels=values,
            attributes=attributes,
            provenance={"source": "archive", "study": self._uid(found.study_uid)},
        )

    def _about(self, found: Found) -> list[Spoken]:
        return about(self._words[found.study_uid], (image.sop_uid for image in found.images))

    def _values(self, found: Found) -> dict[str, float]:
        words = self._about(found)
        if self._question.of_feedback:
            return agreement_labels(words)
        return corrected_labels(self._labels[found.study_uid].values(found), words, found.header)

    def _uid(self, uid: str) -> str:
        return self._pseudonyms.uid(uid) if self._deidentifier is not None else uid

    def _skip(self, uid: str, reason: str) -> None:
        self._skipped.append(Skipped("archive", self._uid(uid), reason))

    def _copy(self, found: Found, folder: Path) -> tuple[Path, ...]:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        try:
            for number, image in enumerate(found.images, start=1):
                files.append(folder / f"{number:05d}.dcm")
                with files[-1].open("wb") as file:
                    if self._deidentifier is None:
                        file.write(image.read())
                    else:
                        cleaned = self._deidentifier(_parsed(image))
                        write(cleaned, file)
                        self.unstated += burned_in(cleaned) == "not stated"
        except BaseException:
            shutil.rmtree(folder)  # an item is there whole or not at all
            raise
        return tuple(files)


def collected(archive: Archive, question: Question, folder: Path, *, progress: Callable[[int, int], None] | None = None) -> Collection:
    """What a question finds, as a data set in memory whose files lie below ``folder``; subjects are the same each time it is asked.

    Raises
    ------
    DataSetRefused
        Nothing usable was found.
    UsageError
    """
    names = Pseudonyms(archive.check_id().encode())
    found = ArchiveDataSet(archive, question, folder, pseudonyms=names, progress=progress)
    return collect(found.name, found.task, found.classes, found, found.skipped, "archive")


def find(archive: Archive, question: Question, skip: Callable[[str, str], None]) -> Iterator[Found]:
    """The images that a question finds, by series; of series without a place in the patient, image by image."""
    series: dict[tuple[str, str], set[str]] = defaultdict(set)
    for study_uid, series_uid, sop_uid in _matches(archive, question.keys):
        series[study_uid, series_uid].update([sop_uid] if sop_uid else [])
    for (study_uid, series_uid), wanted in sorted(series.items()):
        images = [each for each in archive.instances(study_uid, series_uid) if not wanted or each.sop_uid in wanted]
        sound = tuple(each for each in images if not each.damaged)
        for each in images:
            if each.damaged:
                skip(each.sop_uid, "its bytes are damaged")
        try:
            headers = [_header(each) for each in sound[:1]]
        except Exception as error:  # noqa: BLE001 - malformed headers raise anything
            skip(series_uid, f"its header cannot be read ({type(error).__name__})")
            continue
        if not headers or str(headers[0].get("Modality") or "") in NOT_IMAGES or not headers[0].get("Rows"):
            continue
        if _placed(headers[0]):
            yield Found(series_uid, study_uid, sound, headers[0])
        else:
            yield from (Found(each.sop_uid, study_uid, (each,), _header(each)) for each in sound)


def _matches(archive: Archive, keys: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    while header_json.build_missing(archive, HEADERS_AT_ONCE) == HEADERS_AT_ONCE:
        pass  # so that what came last is found by attributes of its header too
    tags = [(int(tag_for_keyword(keyword) or 0), value) for keyword, value in keys]
    level = max((Level.SERIES, *(ATTRIBUTES[tag].level for tag, _ in tags if tag in ATTRIBUTES)), key=lambda each: each.depth)
    asked = [Key(tag, dictionary_VR(tag), value) for tag, value in tags]
    wanted = {STUDY_UID, SERIES_UID, *([SOP_UID] if level is Level.IMAGE else [])}
    asked += [Key(tag, "UI") for tag in sorted(wanted - {tag for tag, _ in tags})]
    try:
        planned = plan(Query(level, tuple(asked)))
        if planned.unsupported:
            names = [keyword for keyword, _ in keys if tag_for_keyword(keyword) in planned.unsupported]
            raise UsageError(f"the archive does not know {', '.join(names)} of images")
        columns = {column.tag: number for number, column in enumerate(planned.columns)}
        for row in stream(archive.database, planned):
            yield tuple(str(row[columns[tag]]) if tag in columns else "" for tag in (STUDY_UID, SERIES_UID, SOP_UID))  # type: ignore[misc]
    except QueryError as error:
        raise UsageError(str(error)) from error


def _parsed(stored: StoredInstance) -> Dataset:
    try:
        content = stored.read()
        refuse_inflation(content, MAX_BYTES)
        return dcmread(BytesIO(content))
    except Exception as error:  # noqa: BLE001 - malformed files raise anything
        raise ValueError(f"it cannot be read ({type(error).__name__})") from None


def _header(stored: StoredInstance) -> Dataset:
    with stored.file() as file:
        return dcmread(file, stop_before_pixels=True)


def _placed(header: Dataset) -> bool:
    return "ImagePositionPatient" in header or "PerFrameFunctionalGroupsSequence" in header


def _emitted(archive: Archive, stored: Sequence[StoredInstance]) -> dict[str, str | None]:
    """SOP Instance UIDs of this node's own objects, with the keys of their runs."""
    with archive.database.read() as connection:
        series = dict.fromkeys(each.series_uid for each in stored)
        records = (record for uid in series for record in index.instances_of(connection, uid))
        return {record.sop_uid: record.run_key for record in records if record.origin == "emitted"}


def volume_of(found: Found) -> Volume:
    """The images as a volume, in the order in which everything is on their grid."""
    return read_volume([image.file for image in found.images], dimensions=2 if found.planar else 3)


def save_mask(labels: NDArray[np.uint8], volume: Volume, path: Path) -> Path:
    """A label map (slices, rows, columns) as NIfTI on the image's grid: axes (column, row, slice), of a radiograph (column, row)."""
    array = labels[0].T if volume.planar else labels.transpose(2, 1, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    image: Any = nibabel.Nifti1Image
    nibabel.save(image(np.ascontiguousarray(array), volume.affine), path)
    return path


def attributes_of(header: Dataset) -> dict[str, str | float]:
    """What subgroups are made of: modality, view, scanner, sex, age in years, site."""
    scanner = " ".join(str(header.get(keyword) or "") for keyword in ("Manufacturer", "ManufacturerModelName")).strip()
    found: dict[str, str | float] = {
        "modality": str(header.get("Modality") or ""),
        "view": str(header.get("ViewPosition") or ""),
        "scanner": scanner,
        "sex": str(header.get("PatientSex") or ""),
        "site": str(header.get("InstitutionName") or ""),
    }
    age = str(header.get("PatientAge") or "").strip().upper()
    if age.removesuffix("Y").isdigit():
        found["age"] = min(float(age.removesuffix("Y")), OLDEST + 1.0)
    return {name: value for name, value in found.items() if value != ""}
