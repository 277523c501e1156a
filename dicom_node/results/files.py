"""Encoded objects as Part 10 files, where no archive writes the file meta (`model run`, tests)."""

from __future__ import annotations

from io import BytesIO

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from .context import EncodedObject
from .uids import derived_uid

_IMPLEMENTATION_CLASS_UID = derived_uid("implementation", "dicom-node results")


def part10(encoded: EncodedObject) -> bytes:
    """The object as a DICOM file: zero preamble, file meta, and the data set's bytes as they are."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(encoded.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(encoded.sop_instance_uid)
    meta.TransferSyntaxUID = UID(encoded.transfer_syntax_uid)
    meta.ImplementationClassUID = UID(_IMPLEMENTATION_CLASS_UID)
    buffer = BytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(DicomIO(buffer), meta)
    buffer.write(encoded.dataset_bytes)
    return buffer.getvalue()
