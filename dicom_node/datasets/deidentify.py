"""One data set after the Basic Application Level Confidentiality Profile (PS3.15 Annex E), for training and for forwarding.

Where the table leaves a choice (X/Z, X/D, ...), what stays valid in any IOD is taken: a dummy before an empty value before
removal; sequences are emptied or removed. What the table does not list goes too where it could speak of a person: private attributes,
person names, free text, dates, UIDs that are no registered ones (these are replaced), unknown attributes. Pixels are written
uncompressed, exactly as long as the image is, so that neither codestreams nor padding carry text.

Not done, and said so in the manifest: cleaning of pixels (an image with burned-in annotation is refused) and of
recognisable features (a head can be rendered as a face).
"""

from __future__ import annotations

import hashlib
import hmac
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from io import BytesIO
from typing import Any

from pydicom import DataElement, Dataset, FileMetaDataset, config, dcmwrite
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_has_tag, dictionary_VM
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from dicom_node.datasets.confidentiality import METHODS, Line, Option, line_of
from dicom_node.results.files import _IMPLEMENTATION_CLASS_UID
from models.errors import GeometryRefused
from models.pixels import check_size

MAX_BYTES = 4 * 1024**3
LONGEST_SHIFT = 3650  # days into the past
SHORTEST_TRACE = 5  # characters of a value that is looked for in what comes out
OLDEST = 89  # years of age that are told; beyond it people are rare enough to be known
BURNED_IN_LIKELY = frozenset({"US", "IVUS", "ES", "XC", "GM", "OP", "OT", "SC", "DOC"})
_FREE_TEXT = frozenset({"LT", "ST", "UT", "UC", "UR", "UN"})
_DUMMIES: dict[str, Any] = {"DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000D", "DS": "0", "IS": "0", "UR": "urn:x"}
_NUMBERS = frozenset({"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"})
_BYTES = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN"})


class Refused(ValueError):
    """An instance is not exported; ``reason`` names no value."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Pseudonyms:
    """Replacements that are the same throughout one export and say nothing without its secret."""

    secret: bytes

    def uid(self, original: str) -> str:
        """2.25.<128 bits> (PS3.5 section B.2)."""
        return f"2.25.{int.from_bytes(self._digest('uid', original)[:16], 'big')}"

    def subject(self, patient_id: str) -> str:
        return f"SUBJECT-{self._digest('subject', patient_id)[:6].hex().upper()}"

    def days(self, patient_id: str) -> int:
        """How far a patient's dates are moved into the past."""
        return 1 + int.from_bytes(self._digest("days", patient_id)[:4], "big") % LONGEST_SHIFT

    def _digest(self, purpose: str, text: str) -> bytes:
        return hmac.new(self.secret, f"{purpose}\0{text}".encode(), hashlib.sha256).digest()


@dataclass(frozen=True)
class Deidentifier:
    """De-identifies the data sets of one export, or for one peer. ``by`` stands in the De-identification Method; with ``burned_in`` images
    pass that have, or may have, text burned into their pixels."""

    pseudonyms: Pseudonyms
    options: frozenset[Option] = frozenset()
    by: str = "data export"
    burned_in: bool = False

    def __call__(self, original: Dataset) -> Dataset:
        """A new data set without identity, ready to be written; ``original`` is decompressed, else unchanged.

        Raises
        ------
        Refused
            It is no monochrome image, it has or may have burned-in annotation, or an original value would remain.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            _refuse_pixels(original, burned_in_too=self.burned_in)
            cleaned = self._cleaned(original, subject_of(original))
            cleaned.PatientName = cleaned.PatientID = self.subject(original)
            self._declare(cleaned)
            _own_pixels(cleaned, original)
            _refuse_traces(original, cleaned, shifted=Option.SHIFT in self.options)
            return cleaned

    def subject(self, original: Dataset) -> str:
        """The pseudonym that stands as Patient ID."""
        return self.pseudonyms.subject(subject_of(original))

    def tells(self, attribute: str) -> bool:
        """Whether an attribute of an item (modality, view, scanner, sex, age, site) may stand in a manifest."""
        return attribute in ("modality", "view", "scanner") or (attribute in ("sex", "age") and Option.PATIENT in self.options)

    def _cleaned(self, dataset: Dataset, subject: str) -> Dataset:
        result = Dataset()
        for element in _readable(dataset):
            kept = self._element(element, subject)
            if kept is not None:
                result.add(kept)
        return result

    def _element(self, element: DataElement, subject: str) -> DataElement | None:
        tag = element.tag
        if tag.is_private or tag.group < 8 or tag.element == 0 or tag.group >> 8 in (0x50, 0x60) or not dictionary_has_tag(tag):
            return None
        if tag in (0x7FE00010, 0x00080005):
            return None  # the pixels and the character set are written anew
        line = line_of(tag)
        if line is None:
            return self._unlisted(element, subject)
        if tag in (0x00100010, 0x00100020):
            return _element(tag, element.VR, self.pseudonyms.subject(subject))  # also in sequences, where they are this patient's
        return self._listed(element, line, subject)

    def _unlisted(self, element: DataElement, subject: str) -> DataElement | None:
        if element.VR == "SQ":
            return _element(element.tag, "SQ", [self._cleaned(item, subject) for item in element.value])
        if element.VR == "UI":
            return self._replaced(element, all_of_them=False)
        if element.VR in _FREE_TEXT or element.VR in ("PN", "DA", "DT", "TM"):
            return None
        return _element(element.tag, element.VR, element.value)

    def _listed(self, element: DataElement, line: Line, subject: str) -> DataElement | None:
        if Option.SHIFT in self.options and "shift" in line.options and element.VR in ("DA", "DT", "TM"):
            return _element(element.tag, element.VR, _shifted(element, self.pseudonyms.days(subject)))
        if any(option in line.options for option in self.options & {Option.PATIENT, Option.DEVICE}) and element.VR != "UI":
            value = _capped(element.value) if element.VR == "AS" else element.value
            return self._unlisted(element, subject) if element.VR == "SQ" else _element(element.tag, element.VR, value)
        if "U" in line.code:
            return self._unlisted(element, subject) if element.VR == "SQ" else self._replaced(element, all_of_them=True)
        if line.code == "X" or (element.VR == "SQ" and line.code == "X/D"):
            return None
        if line.code in ("Z", "X/Z") or (element.VR == "SQ" and line.code != "D"):
            return _element(element.tag, element.VR, [] if element.VR == "SQ" else None)
        return _dummy(element.tag, element.VR)

    def _replaced(self, element: DataElement, *, all_of_them: bool) -> DataElement:
        """UIDs replaced; outside of the attributes that the table names, those of the standard (classes, syntaxes) stay."""
        values = [element.value] if isinstance(element.value, str) else list(element.value or ())
        kept = frozenset[str]() if all_of_them else UID_dictionary.keys()
        replaced = [text if (text := str(value)) in kept or not text else self.pseudonyms.uid(text) for value in values]
        return _element(element.tag, "UI", replaced if len(replaced) > 1 else (replaced[0] if replaced else None))

    def _declare(self, dataset: Dataset) -> None:
        """What PS3.15 E.1.1 asks of the result, and its own file meta."""
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = f"dicom-node {self.by}, PS3.15 2024b"
        codes = []
        for option in (None, *sorted(self.options)):
            item = Dataset()
            item.CodeValue, item.CodeMeaning = METHODS[option]
            item.CodingSchemeDesignator = "DCM"
            codes.append(item)
        dataset.DeidentificationMethodCodeSequence = codes
        dataset.LongitudinalTemporalInformationModified = "MODIFIED" if Option.SHIFT in self.options else "REMOVED"
        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\0\1"
        meta.MediaStorageSOPClassUID = UID(str(dataset.SOPClassUID))
        meta.MediaStorageSOPInstanceUID = UID(str(dataset.SOPInstanceUID))
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = UID(_IMPLEMENTATION_CLASS_UID)
        dataset.file_meta = meta


def subject_of(header: Dataset) -> str:
    """What makes a subject: the Patient ID with its issuer; without one, everything of the study is one subject's."""
    patient = str(header.get("PatientID") or "").strip()
    return f"{patient}\\{header.get('IssuerOfPatientID') or ''}" if patient else f"\\{header.get('StudyInstanceUID') or ''}"


def burned_in(dataset: Dataset) -> str:
    """``yes``, ``no`` or ``not stated``: Burned In Annotation (0028,0301), and Recognizable Visual Features beside it."""
    stated = str(dataset.get("BurnedInAnnotation") or "").strip().upper()
    return {"YES": "yes", "NO": "no"}.get(stated, "not stated")


def _refuse_pixels(dataset: Dataset, *, burned_in_too: bool) -> None:
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not dataset.get(keyword):
            raise Refused(f"it has no {keyword}")
    try:
        check_size(dataset, 1, MAX_BYTES)
    except GeometryRefused as error:
        raise Refused(error.sentence) from None
    if burned_in_too:
        return
    stated, modality = burned_in(dataset), str(dataset.get("Modality") or "")
    if stated == "yes":
        raise Refused("it says that text is burned into its pixels (Burned In Annotation)")
    if stated == "not stated" and modality in BURNED_IN_LIKELY:
        raise Refused(f"it does not say whether text is burned into its pixels, which is likely for {modality}")


def _readable(dataset: Dataset) -> Iterator[DataElement]:
    for tag in list(dataset.keys()):
        try:
            yield dataset[tag]
        except Exception:  # noqa: BLE001, S112 - a value that breaks its VR raises anything, and what cannot be read is left out
            continue


def _element(tag: BaseTag, vr: str, value: Any) -> DataElement:
    return DataElement(tag, vr, value, validation_mode=config.IGNORE)


def _dummy(tag: BaseTag, vr: str) -> DataElement:
    if vr == "SQ":
        return _element(tag, vr, [Dataset()])
    if vr in _BYTES:
        return _element(tag, vr, b"\0\0" if vr in ("OB", "OW", "UN") else bytes(8))
    if vr in _NUMBERS or vr == "AT":
        return _element(tag, vr, 0)
    least = dictionary_VM(tag).split("-")[0]
    value = _DUMMIES.get(vr, "ANONYMIZED")
    return _element(tag, vr, [value] * int(least) if least.isdigit() and int(least) > 1 else value)


def _shifted(element: DataElement, days: int) -> Any:
    """Dates moved; times stay as they are; what is no date becomes empty."""
    values = [element.value] if isinstance(element.value, str) or element.VM < 2 else list(element.value)
    if element.VR == "TM":
        return element.value
    moved = []
    for value in values:
        text = str(value or "").strip()
        try:
            moved.append(f"{date.fromisoformat(text[:8]) - timedelta(days=days):%Y%m%d}{text[8:]}")
        except ValueError:
            moved.append("")
    return moved if len(moved) > 1 else moved[0]


def _capped(value: Any) -> str:
    text = str(value or "")
    return f"{OLDEST + 1:03d}Y" if text[3:4] == "Y" and text[:3].isdigit() and int(text[:3]) > OLDEST else text


def _own_pixels(cleaned: Dataset, original: Dataset) -> None:
    """The pixels, uncompressed and without a byte more than the image has."""
    syntax = original.file_meta.TransferSyntaxUID
    try:
        if syntax.is_compressed and not syntax.is_deflated:
            original.decompress(as_rgb=False, generate_instance_uid=False)
        if syntax == ExplicitVRBigEndian and int(original.BitsAllocated) > 8:
            raise Refused("its pixels are big endian, which is not supported")
        frames = max(1, int(original.get("NumberOfFrames") or 1))
        size = int(original.Rows) * int(original.Columns) * frames * int(original.BitsAllocated) // 8
        pixels = bytes(original.PixelData)[:size]
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - decoders are foreign code and raise anything
        raise Refused(f"its pixels cannot be decoded ({type(error).__name__})") from None
    if len(pixels) < size:
        raise Refused("its pixel data is shorter than its size says")
    vr = "OW" if int(original.BitsAllocated) > 8 else "OB"
    cleaned.add(_element(BaseTag(0x7FE00010), vr, pixels + b"\0" * (size % 2)))


def _refuse_traces(original: Dataset, cleaned: Dataset, *, shifted: bool) -> None:
    """Names, identifiers, UIDs and dates of the original must not stand anywhere in what comes out."""
    header = Dataset()
    header.update({element.tag: element for element in cleaned if element.tag != 0x7FE00010})
    buffer = BytesIO()
    header.save_as(buffer, implicit_vr=False, little_endian=True)
    written = buffer.getvalue()
    for keyword, value in traces(original):
        if not (shifted and keyword.endswith(("Date", "DateTime"))) and value.encode() in written:
            raise Refused(f"the value of its {keyword} stands in an attribute that would be kept")


def traces(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Keyword and text of every name, identifier, UID and date in a data set and its sequences."""
    for element in _readable(dataset):
        if element.VR == "SQ":
            for item in element.value:
                yield from traces(item)
        elif element.VR in ("PN", "UI", "DA", "DT") or element.keyword in ("PatientID", "AccessionNumber", "StudyID"):
            values = [element.value] if element.VM < 2 else element.value
            for text in (str(value or "").strip() for value in values):
                if len(text) >= SHORTEST_TRACE and text not in UID_dictionary:
                    yield element.keyword or "private attribute", text
                    if element.VR == "PN":
                        yield from ((element.keyword, part) for part in text.replace("=", "^").split("^") if len(part) >= SHORTEST_TRACE)


def write(dataset: Dataset, file: Any) -> None:
    """Write a de-identified data set as a Part 10 file with an empty preamble."""
    dcmwrite(file, dataset, enforce_file_format=True)
