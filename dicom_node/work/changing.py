"""Archived instances in the transfer syntax that a forwarding rule asks for; what cannot be changed without loss goes as it was stored."""

from __future__ import annotations

from io import BytesIO
from typing import Final

import blake3
import structlog

from dicom_node.dimse.contexts import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_node.dimse.scu import StoreItem
from dicom_node.pixels.syntaxes import HTJ2K, JPEG_2000, JPEG_LS, RLE
from dicom_node.transcode import MAX_BYTES, ChildrenBusy, TranscodeError, Transcoder, targets
from storage.archive import StoredInstance
from storage.errors import Damaged

log = structlog.get_logger()

UIDS: Final[dict[str, str]] = {
    "explicit_little_endian": EXPLICIT_VR_LITTLE_ENDIAN,
    "implicit_little_endian": IMPLICIT_VR_LITTLE_ENDIAN,
    "deflated": DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    "jpeg_ls": JPEG_LS,
    "jpeg_2000": JPEG_2000,
    "htj2k": HTJ2K,
    "rle": RLE,
}


def changes_to(stored: StoredInstance, target: str | None) -> bool:
    """Whether an instance is to be changed to a transfer syntax, and can be without loss."""
    return target is not None and target in targets(stored.transfer_syntax_uid) and stored.length - stored.meta_length <= MAX_BYTES


def changed(stored: StoredInstance, target: str, transcoder: Transcoder) -> StoreItem | None:
    """The instance in another transfer syntax; None where its pixels do not allow it.

    Raises
    ------
    Damaged
        Its bytes are not those that were archived.
    """
    with open(stored.path, "rb") as stream:
        stream.seek(stored.offset + stored.meta_length)
        data = stream.read(stored.length - stored.meta_length)
    if blake3.blake3(data).hexdigest() != stored.digest:
        raise Damaged("the data set is not the one that was archived")
    try:
        made = transcoder.transcode(data, stored.transfer_syntax_uid, target)
    except (TranscodeError, ChildrenBusy) as error:
        log.info("instance.not_changed", sop_instance_uid=stored.sop_uid, transfer_syntax=target, why=type(error).__name__)
        return None
    return StoreItem(stored.sop_class_uid, stored.sop_uid, target, len(made), lambda: BytesIO(made))
