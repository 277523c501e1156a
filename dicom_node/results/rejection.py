"""The note that takes results back: a Key Object Selection with a rejection title (IHE Image Object Change Management, PS3.16 CID 7011).

Whoever keeps to the profile hides what it refers to; anybody else shows the note and its reason beside the objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept, DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.dataset import Dataset

from .attributes import identification, referenced_requests, source_offset
from .charset import encode_dataset, policy_for, terms_of
from .context import EncodedObject
from .uids import derived_uid, instance_uid

TITLE = CodedConcept("113037", "DCM", "Rejected for Patient Safety Reasons")
DEVICE = CodedConcept("121007", "DCM", "Device")
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
KIND = "KO"
PURPOSE = "rejection note"  # a key object selection of findings is another object of the same run
SERIES_NUMBER = 9113  # beside those of results, which begin with the source's


def rejection_note(
    objects: Sequence[Dataset], *, run_key: str, device_uid: str, station: str, software_version: str, reason: str, at: float
) -> EncodedObject:
    """Encode the note for the objects of one run.

    Parameters
    ----------
    objects:
        Headers of the rejected objects, of one study; patient, study and orders are taken from the first.
    reason:
        For people; stands in the note as Key Object Description.
    at:
        UTC epoch seconds.

    Returns
    -------
    EncodedObject
        Its UID is derived from the run key: a run has one note.
    """
    first = objects[0]
    study = str(first.StudyInstanceUID)
    policy = policy_for(terms_of(first), reason + station)
    device = DeviceObserverIdentifyingAttributes(uid=device_uid, name=station or None, manufacturer_name="dicom-node")
    content = KeyObjectSelection(
        document_title=TITLE,
        referenced_objects=list(objects),
        observer_device_context=ObserverContext(observer_type=DEVICE, observer_identifying_attributes=device),
        description=reason,
    )
    note = KeyObjectSelectionDocument(
        evidence=list(objects),
        content=content,
        series_instance_uid=derived_uid("series", study, device_uid, PURPOSE),
        series_number=SERIES_NUMBER,
        sop_instance_uid=instance_uid(run_key, PURPOSE),
        instance_number=1,
        manufacturer="dicom-node",
        requested_procedures=referenced_requests(first, study, policy) or None,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
    )
    note.update(identification(first, policy))
    when = datetime.fromtimestamp(at, UTC).astimezone(source_offset(first))
    for keyword in ("InstanceCreation", "Content", "Series"):
        setattr(note, f"{keyword}Date", when.strftime("%Y%m%d"))
        setattr(note, f"{keyword}Time", when.strftime("%H%M%S.%f"))
    note.SeriesDescription = "Rejection note"
    note.ManufacturerModelName = "dicom-node"
    note.SoftwareVersions = software_version[:64]
    note.DeviceUID = device_uid
    return EncodedObject(
        kind=KIND,
        sop_class_uid=str(note.SOPClassUID),
        sop_instance_uid=str(note.SOPInstanceUID),
        series_uid=str(note.SeriesInstanceUID),
        study_uid=study,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        dataset_bytes=encode_dataset(note, policy),
        summary=f"{len(objects)} objects rejected",
    )
