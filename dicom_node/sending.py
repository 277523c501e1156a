"""DICOM files to a peer by C-STORE, each exactly as it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info, read_preamble

from dicom_node.config import Config, Peer
from dicom_node.dimse.scu import MAX_CONTEXTS, StoreItem, StoreResult
from dicom_node.work.associating import associate_peer

Answer = tuple[StoreItem, StoreResult]


def store_items(paths: Iterable[Path]) -> tuple[list[StoreItem], list[Path]]:
    """The DICOM files among ``paths`` and below them, and the files that are none."""
    items, skipped = [], []
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            try:
                items.append(store_item(file))
            except (InvalidDicomError, OSError, AttributeError, ValueError, EOFError):
                skipped.append(file)
    return items, skipped


def store_item(file: Path) -> StoreItem:
    """A Part 10 file as the SCU sends it."""
    meta = read_file_meta_info(file)
    with file.open("rb") as stream:
        read_preamble(stream, False)
        # Group length: what follows its own 12 bytes.
        start = 132 + 12 + int(meta.FileMetaInformationGroupLength)

    def open_data() -> BinaryIO:
        stream = open(file, "rb", buffering=0)  # noqa: SIM115  the SCU closes it
        stream.seek(start)
        return cast(BinaryIO, stream)

    return StoreItem(
        str(meta.MediaStorageSOPClassUID),
        str(meta.MediaStorageSOPInstanceUID),
        str(meta.TransferSyntaxUID),
        file.stat().st_size - start,
        open_data,
    )


def send_files(
    config: Config, peer: Peer, items: Sequence[StoreItem], answered: Callable[[StoreItem, StoreResult], None] | None = None
) -> list[Answer]:
    """Send instances over as few associations as their presentation contexts need.

    Raises
    ------
    DimseError
        With the step that failed.
    """
    answers: list[Answer] = []
    for batch in _batches(items):
        contexts = dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in batch)
        with associate_peer(config, peer, [(abstract, [syntax]) for abstract, syntax in contexts]) as association:
            for item in batch:
                if association.accepts(item.sop_class_uid, item.transfer_syntax_uid):
                    result = association.store(item)
                else:
                    result = StoreResult(0x0122, "no presentation context for this class and transfer syntax")
                answers.append((item, result))
                if answered is not None:
                    answered(item, result)
    return answers


def _batches(items: Sequence[StoreItem]) -> Iterable[list[StoreItem]]:
    batch: list[StoreItem] = []
    contexts: set[tuple[str, str]] = set()
    for item in items:
        context = (item.sop_class_uid, item.transfer_syntax_uid)
        if context not in contexts and len(contexts) == MAX_CONTEXTS:
            yield batch
            batch, contexts = [], set()
        contexts.add(context)
        batch.append(item)
    if batch:
        yield batch
