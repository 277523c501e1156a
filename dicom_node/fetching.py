"""What a C-GET sends, as Part 10 files in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pynetdicom import StoragePresentationContexts

from dicom_node.config import Config, Peer
from dicom_node.dimse.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, LABEL_MAP_SEGMENTATION, STUDY_ROOT_GET
from dicom_node.dimse.message import Command
from dicom_node.dimse.scu import MAX_CONTEXTS, Requestor
from dicom_node.work.associating import associate_peer
from storage.headers import is_uid
from storage.members import file_meta

OUT_OF_RESOURCES: Final = 0xA700
CANNOT_UNDERSTAND: Final = 0xC000


def associate_for_get(config: Config, peer: Peer) -> Requestor:
    """Associate as the provider of every Storage class that fits into an association, uncompressed: a peer decodes what it must.

    Raises
    ------
    DimseError
    """
    classes = [str(context.abstract_syntax) for context in StoragePresentationContexts]
    classes = [LABEL_MAP_SEGMENTATION, *(uid for uid in classes if uid != LABEL_MAP_SEGMENTATION)][: MAX_CONTEXTS - 1]
    contexts = [(STUDY_ROOT_GET, [IMPLICIT_VR_LITTLE_ENDIAN])]
    contexts += [(uid, [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]) for uid in classes]
    return associate_peer(config, peer, contexts, roles=dict.fromkeys(classes, (True, True)))


class FolderSink:
    """Writes each instance into a folder, named by its SOP Instance UID; one that is there already stays."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written: list[Path] = []

    def take(self, command: Command, syntax: str, pieces: Iterator[memoryview]) -> int:
        """Write one instance; the status to be answered."""
        uid = command.sop_instance_uid
        if not is_uid(uid):
            return CANNOT_UNDERSTAND
        path = self._folder / f"{uid}.dcm"
        part = self._folder / f".{hashlib.sha1(uid.encode()).hexdigest()}.part"
        try:
            with part.open("wb") as file:
                file.write(file_meta(command.sop_class_uid, uid, syntax))
                for piece in pieces:
                    file.write(piece)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            return OUT_OF_RESOURCES
        self.written.append(path)
        return 0
