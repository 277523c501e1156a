"""The source images as far as results refer to them: UIDs and geometry, and nothing about the patient.

highdicom reads patient attributes of its sources, checks them and quotes them in warnings. It gets these
shells instead; `attributes` copies what belongs into a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import dist

from pydicom.dataset import Dataset

from models.findings import Prediction

from .context import ResultContext
from .uids import derived_uid

_GEOMETRY = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImageType",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "NumberOfFrames",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationType",
]
# Of an image without a place in the patient, a result's own pixel measures would repeat a size that may hold at the detector only.
_OF_PLACED = frozenset({"FrameOfReferenceUID", "PositionReferenceIndicator", "PixelSpacing", "SliceThickness"})
_PLACEHOLDERS = ["PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"]


@dataclass(frozen=True, eq=False)
class Sources:
    """Source images of one series.

    Attributes
    ----------
    shells:
        One data set per instance with UIDs and geometry only. That of a multi-frame instance has just the
        frames of the volume, in volume order: its frame i is the source's frame `frame_numbers[i - 1]`.
    frame_numbers:
        For one multi-frame instance, its frame numbers in volume order; empty for single frames.
    first:
        The first source header as it came, for `attributes`.
    """

    shells: tuple[Dataset, ...]
    frame_numbers: tuple[int, ...]
    first: Dataset

    @property
    def multiframe(self) -> bool:
        return bool(self.frame_numbers)

    @property
    def placed(self) -> bool:
        """Whether the images have a place in the patient; a radiograph has none."""
        return self.multiframe or "ImagePositionPatient" in self.shells[0]

    @property
    def series_uid(self) -> str:
        return str(self.shells[0].SeriesInstanceUID)

    @property
    def modality(self) -> str:
        return str(self.shells[0].get("Modality") or "OT")

    @property
    def series_number(self) -> int | None:
        value = self.first.get("SeriesNumber")
        return None if value in (None, "") else int(value)

    def instances(self) -> list[tuple[str, str]]:
        """(SOP Class UID, SOP Instance UID) of every source instance."""
        return [(str(shell.SOPClassUID), str(shell.SOPInstanceUID)) for shell in self.shells]


def read_sources(prediction: Prediction, headers: Sequence[Dataset], study_uid: str) -> Sources:
    """Check that the headers are the prediction's sources and keep what results need of them.

    Raises
    ------
    ValueError
        No header, a header of another study or series, or other instances than the prediction names.
    """
    unique: dict[str, Dataset] = {str(header.SOPInstanceUID): header for header in headers}
    if not unique:
        raise ValueError("no source image was given")
    if len({str(h.SeriesInstanceUID) for h in unique.values()}) != 1:
        raise ValueError("the source images are of more than one series")
    if any(str(h.StudyInstanceUID) != study_uid for h in unique.values()):
        raise ValueError("a source image is of another study than the run")
    named = list(dict.fromkeys(prediction.sources))
    if named and named != list(unique):
        raise ValueError("the source images are not those of the prediction, or in another order")
    first = next(iter(unique.values()))
    frames: tuple[int, ...] = ()
    described = len(first.get("PerFrameFunctionalGroupsSequence") or ())
    if described:
        frames = tuple(prediction.frame_numbers) or tuple(range(1, described + 1))
        if max(frames) > described:
            raise ValueError("the prediction names a frame that the source does not have")
    return Sources(tuple(_shells(list(unique.values()), frames)), frames, first)


def further_shells(sources: Sources, context: ResultContext) -> Iterator[Dataset]:
    """Of each instance of a model's further inputs what evidence needs: its UIDs."""
    for each in context.inputs:
        for sop_class, sop_uid in each.instances:
            shell = Dataset()
            for keyword in _PLACEHOLDERS:
                setattr(shell, keyword, "")
            shell.SOPClassUID, shell.SOPInstanceUID = sop_class, sop_uid
            shell.StudyInstanceUID, shell.SeriesInstanceUID = each.study_uid, each.series_uid
            yield shell


def _shells(headers: Sequence[Dataset], frame_numbers: tuple[int, ...]) -> Iterator[Dataset]:
    """One shell per instance. They differ in UIDs and position only: that the rest is the same within the
    tolerance of a volume was decided when the volume was read, and highdicom compares it digit by digit.
    """
    common = _common(headers[0], frame_numbers)
    _complete(common, headers)
    elements = {element.tag: element for element in common}
    for header in headers:
        shell = Dataset(dict(elements))
        for keyword in ("SOPClassUID", "SOPInstanceUID", "ImagePositionPatient"):
            if keyword in header:
                shell.add(header[keyword])
        yield shell


def _complete(common: Dataset, headers: Sequence[Dataset]) -> None:
    """What a positioned source must have and some lack: a Frame of Reference, a Slice Thickness."""
    if "ImagePositionPatient" not in headers[0]:
        return
    if not common.get("FrameOfReferenceUID"):
        common.FrameOfReferenceUID = derived_uid("frame of reference", str(common.SeriesInstanceUID))
    if common.get("SliceThickness") is None and common.get("PixelSpacing"):
        positions = [[float(v) for v in header.get("ImagePositionPatient") or ()] for header in headers[:2]]
        known = len(positions) == 2 and len(positions[0]) == len(positions[1])
        common.SliceThickness = f"{dist(*positions) if known else float(common.PixelSpacing[0]):.6g}"


def _common(header: Dataset, frame_numbers: tuple[int, ...]) -> Dataset:
    shell, placed = Dataset(), bool(frame_numbers) or "ImagePositionPatient" in header
    for keyword in _GEOMETRY:
        if keyword in header and (placed or keyword not in _OF_PLACED):
            shell.add(header[keyword])
    if frame_numbers:
        shell.NumberOfFrames = len(frame_numbers)
        shell.SharedFunctionalGroupsSequence, shell.PerFrameFunctionalGroupsSequence = _functional_groups(header, frame_numbers)
    for keyword in _PLACEHOLDERS:
        setattr(shell, keyword, "")
    return shell


def _functional_groups(header: Dataset, frame_numbers: tuple[int, ...]) -> tuple[list[Dataset], list[Dataset]]:
    """Plane positions per frame; orientation and spacing shared, wherever the source states them."""
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    stored = header.PerFrameFunctionalGroupsSequence
    frames = [stored[number - 1] for number in frame_numbers]
    common = Dataset()
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        holder = shared if keyword in shared else frames[0]
        if keyword in holder:
            common.add(holder[keyword])
    positions = []
    for frame in frames:
        position = Dataset()
        holder = frame if "PlanePositionSequence" in frame else shared
        if "PlanePositionSequence" in holder:
            position.add(holder["PlanePositionSequence"])
        positions.append(position)
    return [common], positions
