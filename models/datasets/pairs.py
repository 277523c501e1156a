r"""A folder of images and their masks: NIfTI, DICOM, PNG or JPEG, with the same names, or names that differ by a suffix.

    ROOT/images/case_01.nii.gz   ROOT/labels/case_01.nii.gz        (imagesTr/labelsTr, images/masks too)
    ROOT/case_01_image.png       ROOT/case_01_mask.png             image_suffix=_image, mask_suffix=_mask
    ROOT/images/case_01/*.dcm    ROOT/labels/case_01.nii.gz        a folder that holds one DICOM series is one image

The subject is the Patient ID of a DICOM file, as a pseudonym; else what ``name`` finds in the file's name; else the name.
``name`` is a regular expression whose groups become attributes: ``(?P<subject>MCUCXR_\d+)_(?P<tb>[01])``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread

from models.datasets.collection import Collection, DataSetRefused, collect, is_dicom, is_image, natural, number_or_text, pseudonym, stem
from models.datasets.protocol import Item, Skipped, Task
from models.datasets.statistics import header_age, header_words

IMAGE_FOLDERS = ("images", "imagesTr", "image", "img")
MASK_FOLDERS = ("labels", "labelsTr", "masks", "mask", "label", "segmentations")
TAGS = ["PatientID", "IssuerOfPatientID", "SeriesInstanceUID", "ImagePositionPatient", "PatientAge", "PatientSex", "Modality"]
TAGS += ["Manufacturer", "ManufacturerModelName", "ViewPosition", "BodyPartExamined", "PhotometricInterpretation"]


@dataclass(frozen=True)
class Pairs:
    """How the files of a folder belong together.

    Parameters
    ----------
    images, masks
        Folders below the root; where they are empty, the usual names are tried, then the root itself.
    image_suffix, mask_suffix
        What a file's name ends with before its format.
    classes
        Names of the label values 1, 2, ...; where empty, those of ``dataset.json`` (as in the Medical Segmentation
        Decathlon), else one for each label value up to the largest in any mask.
    name
        Regular expression for the name of the file without its suffix, with named groups.
    labelled
        False: images alone.
    """

    images: str = ""
    masks: str = ""
    image_suffix: str = ""
    mask_suffix: str = ""
    classes: tuple[str, ...] = ()
    name: str = ""
    labelled: bool = True


def read_pairs(root: Path, layout: Pairs | None = None, *, name: str = "") -> Collection:
    """Read a folder of pairs; an image without a mask, and a mask without an image, are skipped.

    Raises
    ------
    DataSetRefused
        There is no such folder, no pair in it, or the expression is none.
    """
    layout = layout or Pairs()
    if not root.is_dir():
        raise DataSetRefused(root, "there is no such folder")
    pattern = _pattern(layout.name, root)
    masks = _folder(root, layout.masks, MASK_FOLDERS) if layout.labelled else None
    images = _folder(root, layout.images, IMAGE_FOLDERS)
    found, skipped = _images(images, layout, None if masks == images else masks)
    items, used = [], set()
    known = _by_name(masks, layout) if masks else {}
    for key, files in found.items():
        mask = known.get(key)
        if layout.labelled and mask is None:
            skipped.append(Skipped(str(files[0]), key, "there is no mask for it"))
            continue
        used.add(mask)
        items.append(_item(key, files, mask, pattern, root))
    skipped += [Skipped(str(path), key, "there is no image for this mask") for key, path in known.items() if path not in used]
    task: Task = "segmentation" if layout.labelled else "none"
    titled, classes = _described(root)
    named = layout.classes or classes
    whole = collect(name or titled or root.resolve().name, task, named, items, skipped, root)
    if layout.labelled and not named:
        whole.classes = _counted(whole)
    return whole


def _pattern(text: str, root: Path) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise DataSetRefused(root, f"'{text}' is no regular expression ({error})") from error


def _folder(root: Path, named: str, usual: Sequence[str]) -> Path:
    if named:
        if not (root / named).is_dir():
            raise DataSetRefused(root / named, "there is no such folder")
        return root / named
    return next((root / each for each in usual if (root / each).is_dir()), root)


def _images(folder: Path, layout: Pairs, masks: Path | None) -> tuple[dict[str, tuple[Path, ...]], list[Skipped]]:
    """Images by name; files of one DICOM series with a place in the patient are one image."""
    found: dict[str, tuple[Path, ...]] = {}
    skipped: list[Skipped] = []
    series: dict[tuple[Path, str], list[Path]] = {}
    for path in _files(folder, masks):
        if layout.mask_suffix and masks is None and layout.labelled and stem(path).endswith(layout.mask_suffix):
            continue
        uid = _series(path, skipped)
        if uid:
            series.setdefault((path.parent, uid), []).append(path)
        elif uid is not None and stem(path).endswith(layout.image_suffix):
            _put(found, _key(path, folder, layout.image_suffix), (path,), skipped)
    for (parent, uid), files in series.items():
        alone = sum(1 for each, _ in series if each == parent) == 1
        key = _key(files[0], folder, layout.image_suffix) if len(files) == 1 else parent.relative_to(folder).as_posix()
        _put(found, key if alone or len(files) == 1 else f"{key}/{uid}", tuple(files), skipped)
    return found, skipped


def _put(found: dict[str, tuple[Path, ...]], key: str, files: tuple[Path, ...], skipped: list[Skipped]) -> None:
    key = files[0].parent.resolve().name if key == "." else key
    if key in found:
        skipped.append(Skipped(str(files[0]), key, f"{found[key][0].name} has the same name"))
    else:
        found[key] = files


def _files(folder: Path, other: Path | None) -> Iterable[Path]:
    for path in sorted(folder.rglob("*"), key=lambda each: natural(each.as_posix())):
        if path.is_file() and is_image(path) and not (other is not None and other != folder and path.is_relative_to(other)):
            yield path


def _series(path: Path, skipped: list[Skipped]) -> str | None:
    """The series of a slice; empty of an image that stands alone; None of what cannot be read as DICOM."""
    if not is_dicom(path):
        return ""
    header = _header(path)
    if header is None:
        skipped.append(Skipped(str(path), path.name, "it cannot be read as DICOM"))
        return None
    return str(header.get("SeriesInstanceUID") or "") if header.get("ImagePositionPatient") else ""


def _header(path: Path) -> Dataset | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may identify the patient
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
            header.walk(lambda _, element: None)  # elements are converted when they are first used: here, or not at all
            return header
    except Exception:  # noqa: BLE001 - malformed files raise anything
        return None


def _key(path: Path, folder: Path, suffix: str) -> str:
    name = stem(path)
    return (path.parent.relative_to(folder) / (name[: len(name) - len(suffix)] if suffix else name)).as_posix()


def _by_name(folder: Path, layout: Pairs) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    images = [folder / each for each in IMAGE_FOLDERS if (folder / each).is_dir()]
    paths = [path for path in _files(folder, images[0] if images else None) if stem(path).endswith(layout.mask_suffix)]
    return {_key(path, folder, layout.mask_suffix): path for path in paths}


def _item(key: str, files: tuple[Path, ...], mask: Path | None, pattern: re.Pattern[str] | None, root: Path) -> Item:
    subject, attributes = _of_name(key, pattern)
    header = _header(files[0]) if is_dicom(files[0]) else None
    if header is not None:
        attributes |= header_attributes(header)
        if header.get("PatientID"):
            subject = pseudonym(str(header.PatientID), str(header.get("IssuerOfPatientID") or ""))
    row = files[0].relative_to(root).as_posix()
    return Item(key, subject, files, mask, attributes=attributes, provenance={"source": root.resolve().name, "row": row})


def _of_name(key: str, pattern: re.Pattern[str] | None) -> tuple[str, dict[str, str | float]]:
    match = pattern.search(key.rsplit("/", 1)[-1]) if pattern else None
    groups: Mapping[str, str | None] = match.groupdict() if match else {}
    attributes = {name: number_or_text(value) for name, value in groups.items() if value is not None and name != "subject"}
    return groups.get("subject") or key, attributes


def header_attributes(header: Dataset) -> dict[str, str | float]:
    """Attributes for subgroups from a DICOM header: sex, age, modality, view, manufacturer and scanner."""
    words = header_words(header)
    found: dict[str, str | float] = {name: words[name] for name in ("modality", "sex", "view", "manufacturer") if name in words}
    if "model" in words:
        found["scanner"] = words["model"]
    age = header_age(header)
    return found if age is None else {**found, "age": age}


def _described(root: Path) -> tuple[str, tuple[str, ...]]:
    """Name and classes from ``dataset.json``, as the Medical Segmentation Decathlon and nnU-Net write it."""
    try:
        content = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
        labels = content["labels"]
        named = labels if "0" in labels else {value: key for key, value in labels.items()}
        values = {int(value): str(word) for value, word in named.items()}
        return str(content.get("name") or ""), tuple(values[each] for each in sorted(values) if each)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", ()


def _counted(whole: Collection) -> tuple[str, ...]:
    """A class for each label value up to the largest in any readable mask; a picture's black and white are one class."""
    from models.datasets.loading import ItemUnreadable, mask_volumes

    values: set[int] = set()
    for item in whole.items:
        try:
            values |= set(mask_volumes(item))
        except ItemUnreadable:
            continue  # found again, with its reason, by whoever loads it
    if values <= {255}:
        return ("foreground",)
    return tuple(f"label {value}" for value in range(1, max(values) + 1))
