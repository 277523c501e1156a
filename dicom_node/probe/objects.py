"""A study of a patient who does not exist: a few images with a ball in them, and the results of a run that never was, in every form."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from pydicom import Dataset
from pydicom.uid import MRImageStorage

import dicom_node
from dicom_node.dimse.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_node.results.charset import TextPolicy, encode_dataset
from dicom_node.results.context import EncodedObject, ResultContext
from dicom_node.results.encode import encode
from dicom_node.results.forms import KINDS, RECORD, Form
from dicom_node.results.uids import derived_uid, device_uid
from models.findings import Code, Measurement, ModelIdentity, Prediction, Segment, Timings

PATIENT_ID = "DICOM-NODE-PROBE"
PATIENT_NAME = "PROBE^DICOM NODE TEST"
DESCRIPTION = "TEST of dicom-node, may be deleted"
SLICES, SIDE = 4, 64
_MODEL = ModelIdentity(
    name="dicom-node probe",
    version=dicom_node.__version__,
    manufacturer="dicom-node",
    digest="0" * 64,
    family=Code("123110", "DCM", "Artificial Intelligence"),
    intended_use="test of a connection",
    licence="Apache-2.0",
)


@dataclass(frozen=True)
class ProbeStudy:
    """The objects of one probe by kind: "IMAGE", and those of :data:`dicom_node.results.forms.KINDS`."""

    study_uid: str
    objects: dict[str, list[EncodedObject]]


def probe_study(at: float, station: str) -> ProbeStudy:
    """Make a study of its own, never the same twice: a peer would tell what it knows from what is new."""
    token = str(uuid.uuid4())
    images = [_image(token, plane) for plane in range(SLICES)]
    study_uid = str(images[0].StudyInstanceUID)
    prediction = _prediction(images)
    context = ResultContext(
        run_key=token,
        study_uid=study_uid,
        bundle="probe",
        device_uid=device_uid(token, _MODEL.digest),
        software_version=dicom_node.__version__,
        started_at=at,
        station=station,
        forms=tuple(Form(kind) for kind in KINDS if kind not in RECORD),
    )
    objects: dict[str, list[EncodedObject]] = {"IMAGE": [_encoded(image) for image in images]}
    for each in encode(prediction, images, context, _values()):
        objects.setdefault(each.kind, []).append(each)
    return ProbeStudy(study_uid, {kind: objects[kind] for kind in ("IMAGE", *KINDS)})


def again(study: ProbeStudy, kind: str, purpose: str) -> EncodedObject:
    """The first object of a kind once more, under a UID of its own."""
    from pydicom import dcmread

    from dicom_node.results.files import part10

    first = study.objects[kind][0]
    uid = derived_uid("probe", first.sop_instance_uid, purpose)
    dataset = dcmread(BytesIO(part10(first)))
    dataset.SOPInstanceUID = uid
    data = encode_dataset(dataset, TextPolicy((), converts=False))
    return EncodedObject(
        kind, first.sop_class_uid, uid, first.series_uid, first.study_uid, first.transfer_syntax_uid, data, purpose, (kind,)
    )


def _values() -> np.ndarray[tuple[int, int, int], np.dtype[np.int16]]:
    """(slices, rows, columns): a ball that is brighter than what is around it."""
    z, y, x = np.ogrid[:SLICES, :SIDE, :SIDE]
    radius = (z - (SLICES - 1) / 2) ** 2 * 60 + (y - SIDE / 2) ** 2 + (x - SIDE / 2) ** 2
    return np.where(radius < (SIDE / 3) ** 2, 800, 200).astype(np.int16)


def _image(token: str, plane: int) -> Dataset:
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, derived_uid("probe", token, "image", str(plane))
    image.StudyInstanceUID, image.SeriesInstanceUID = derived_uid("probe", token, "study"), derived_uid("probe", token, "series")
    image.FrameOfReferenceUID = derived_uid("probe", token, "frame of reference")
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = PATIENT_NAME, PATIENT_ID, "", "O"
    image.QualityControlSubject = "YES"
    image.StudyDate = image.StudyTime = image.AccessionNumber = image.ReferringPhysicianName = ""
    image.StudyID, image.StudyDescription, image.SeriesDescription = "PROBE", DESCRIPTION, DESCRIPTION
    image.Modality, image.SeriesNumber, image.InstanceNumber, image.Laterality = "MR", 1, plane + 1, ""
    image.Manufacturer, image.ImageType = "dicom-node", ["DERIVED", "SECONDARY", "OTHER"]
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions, image.MRAcquisitionType = "RM", "NONE", None, "3D"
    image.EchoTime = image.RepetitionTime = image.EchoTrainLength = None
    image.PositionReferenceIndicator, image.PatientPosition = "", "HFS"
    image.ImagePositionPatient, image.ImageOrientationPatient = [-32, -32, plane * 5], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], 5
    image.Rows = image.Columns = SIDE
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.WindowCenter, image.WindowWidth = 500, 1000
    image.add_new(0x7FE00010, "OW", _values()[plane].astype("<i2").tobytes())
    return image


def _prediction(images: list[Dataset]) -> Prediction:
    structure = Code("123037004", "SCT", "Anatomical Structure")
    mask = _values() > 500
    ball = Segment(1, "Test ball", structure, Code("12738006", "SCT", "Brain"), mask, (230, 120, 90), "ball")
    volume = Measurement(Code("118565006", "SCT", "Volume"), float(mask.sum()) * 0.005, Code("ml", "UCUM", "milliliter"), 1)
    sources = tuple(str(image.SOPInstanceUID) for image in images)
    return Prediction(_MODEL, (ball,), (volume,), (), sources, (1,) * len(images), "none", Timings())


def _encoded(image: Dataset) -> EncodedObject:
    return EncodedObject(
        kind="IMAGE",
        sop_class_uid=str(image.SOPClassUID),
        sop_instance_uid=str(image.SOPInstanceUID),
        series_uid=str(image.SeriesInstanceUID),
        study_uid=str(image.StudyInstanceUID),
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        dataset_bytes=encode_dataset(image, TextPolicy((), converts=False)),
        summary="image",
        forms=("IMAGE",),
    )
