"""Copies without identity for one peer, made on the way out (PS3.15 Annex E): never stored, the same bytes at every attempt.

New UIDs, pseudonyms and moved dates are derived from the originals by a key of the peer's own, so that what is sent later, or once more,
belongs to what the peer has, and what two peers have cannot be put together. The key of a peer is derived from one secret, which lies in
the node's data directory and nowhere else: who has it can tell who somebody is.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import blake3
from pydicom import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from dicom_node.clock import Clock
from dicom_node.config import Config, Peer
from dicom_node.config_rules import Deidentify
from dicom_node.datasets.confidentiality import Option
from dicom_node.datasets.deidentify import Deidentifier, Pseudonyms, Refused
from dicom_node.dimse.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_node.dimse.scu import StoreItem
from dicom_node.errors import GiveUp
from dicom_node.transcode import MAX_BYTES, ChildrenBusy, TranscodeError, Transcoder
from storage import copies
from storage.archive import StoredInstance
from storage.database import Database
from storage.errors import Damaged

KEY_FILE: Final = "deidentify.key"
_PLAIN: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)


class Copies:
    """Makes the copies of one delivery."""

    def __init__(self, config: Config, peer: Peer, profile: Deidentify, transcoder: Transcoder) -> None:
        self._peer = peer.name
        self._transcoder = transcoder
        self._pseudonyms = Pseudonyms(_key_of(secret_of(config.node.data_dir), peer.name))
        options = frozenset(Option(name) for name in profile.keep)
        self._deidentify = Deidentifier(self._pseudonyms, options, by="forward", burned_in=profile.burned_in == "send")

    def contexts(self, items: Sequence[StoredInstance]) -> list[StoredInstance]:
        """The instances as they are proposed to the peer: uncompressed."""
        return [replace(each, transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN) for each in items]

    def remember(self, database: Database, items: Sequence[StoredInstance], *, clock: Clock) -> None:
        """Keep the copies' UIDs before the first of them leaves, so that one that comes back is known."""
        with database.begin() as connection:
            copies.remember(connection, [self._pseudonyms.uid(each.sop_uid) for each in items], self._peer, now=clock())

    def item(self, stored: StoredInstance) -> StoreItem:
        """A copy, ready to be sent.

        Raises
        ------
        Refused
            It cannot be made: no monochrome image, text in the pixels, pixels that cannot be decoded, an identity that would remain.
        ChildrenBusy
            Not now.
        Damaged
            Its bytes are not those that were archived.
        """
        try:
            made = self._deidentify(self._read(stored))
            uid = str(made.SOPInstanceUID)
            data = _written(made)
        except (Refused, Damaged, ChildrenBusy):
            raise
        except Exception as error:  # noqa: BLE001 - what was received may be anything, and its text may be quoted in the error
            raise Refused(f"it cannot be de-identified ({type(error).__name__})") from None
        return StoreItem(stored.sop_class_uid, uid, EXPLICIT_VR_LITTLE_ENDIAN, len(data), lambda: BytesIO(data))

    def _read(self, stored: StoredInstance) -> Dataset:
        """The data set, decoded by a child process where it is compressed."""
        length = stored.length - stored.meta_length
        if length > MAX_BYTES:
            raise Refused("it is larger than what is de-identified")
        with open(stored.path, "rb") as stream:
            stream.seek(stored.offset + stored.meta_length)
            data = stream.read(length)
        if blake3.blake3(data).hexdigest() != stored.digest:
            raise Damaged("the data set is not the one that was archived")
        syntax = stored.transfer_syntax_uid
        if syntax not in _PLAIN:
            try:
                data, syntax = self._transcoder.transcode(data, syntax, EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN
            except ChildrenBusy:
                raise
            except TranscodeError:
                raise Refused("its pixels cannot be decoded") from None
        dataset = read_dataset(BytesIO(data), syntax == IMPLICIT_VR_LITTLE_ENDIAN, is_little_endian=True)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        return dataset


def copies_for(config: Config, peer: Peer, payload: Mapping[str, Any], transcoder: Transcoder) -> Copies | None:
    """What makes the copies of a delivery; None where the originals go."""
    asked = payload.get("deidentify")
    return None if asked is None else Copies(config, peer, Deidentify.model_validate(asked), transcoder)


@cache
def secret_of(folder: Path) -> bytes:
    """The node's secret, made where there is none: whole or not at all, readable by its owner alone, the same for whoever asks at once."""
    file = folder / KEY_FILE
    if not file.exists():
        descriptor, made = tempfile.mkstemp(prefix=f".{KEY_FILE}.", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_hex(32).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(made, file)
        finally:
            os.unlink(made)
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    secret = file.read_bytes().strip()
    if len(secret) < 32:
        raise GiveUp(f"{file} holds {len(secret)} bytes; a secret has at least 32")
    return secret


def _key_of(secret: bytes, peer: str) -> bytes:
    return hmac.new(secret, f"forward\0{peer}".encode(), hashlib.sha256).digest()


def _written(dataset: Dataset) -> bytes:
    """The data set without file meta."""
    del dataset.file_meta
    buffer = BytesIO()
    dataset.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()
