"""A training set without identity: images, masks, ``manifest.jsonl``, and ``export.json`` that says how it was made.

Where radiologists judged results, ``feedback.csv`` says what a model found and what they said.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dicom_node
from dicom_node.datasets.archive import ArchiveDataSet, Question
from dicom_node.datasets.confidentiality import METHODS, Option
from dicom_node.datasets.deidentify import Deidentifier, Pseudonyms
from dicom_node.datasets.spoken import table
from dicom_node.errors import CommandFailed
from models.datasets.manifest import write_manifest
from models.datasets.writing import write_text
from storage.archive import Archive

NOT_DONE = (
    "Pixels were not cleaned: images that state burned-in annotation were refused, and those that state nothing where it is "
    "likely (ultrasound, endoscopy, secondary capture and the like); others that state nothing are to be looked at.",
    "Recognisable features were not removed: a head in MR or CT can be rendered as a face.",
)


@dataclass(frozen=True)
class Exported:
    """What an export came to. ``told`` is the content of export.json."""

    dataset: ArchiveDataSet
    manifest: Path
    told: dict[str, Any]


def export(
    archive: Archive,
    question: Question,
    out: Path,
    *,
    secret: bytes,
    options: frozenset[Option] = frozenset(),
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a de-identified training set into a new or empty folder.

    Parameters
    ----------
    secret
        What pseudonyms, new UIDs and moved dates are derived from: the same secret gives the same ones again.

    Raises
    ------
    CommandFailed
        The folder holds something, or nothing could be exported.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandFailed(f"{out} is not empty; an export needs a folder of its own")
    out.mkdir(parents=True, exist_ok=True)
    names = Pseudonyms(secret)
    dataset = ArchiveDataSet(
        archive, question, out, pseudonyms=names, deidentifier=Deidentifier(names, options), name=out.name or "export", progress=progress
    )
    told = _told(dataset, options)
    write_text(out / "export.json", _json(told))
    if not len(dataset):
        reasons = "; ".join(f"{reason} ({count})" for reason, count in told["skipped"].items())
        raise CommandFailed("nothing was exported: " + (reasons or "the query finds no image"))
    manifest = out / "manifest.jsonl"
    write_manifest(manifest, dataset)
    if dataset.spoken:
        write_text(out / "feedback.csv", table(dataset.spoken))
    return Exported(dataset, manifest, told)


def secret_from(file: Path | None, out: Path) -> bytes:
    """The secret of an export: from a file, which is made (readable by its owner alone) where there is none; without a file a new one
    that nobody keeps.

    Raises
    ------
    CommandFailed
        The file would be part of the export, or holds too little.
    """
    if file is None:
        return secrets.token_bytes(32)
    if file.absolute().resolve().is_relative_to(out.absolute().resolve()):
        raise CommandFailed("the secret must not lie in the folder that is exported")
    if not file.exists():
        file.touch(mode=0o600, exist_ok=False)
        file.write_bytes(secrets.token_hex(32).encode() + b"\n")
    secret = file.read_bytes().strip()
    if len(secret) < 32:
        raise CommandFailed(f"{file} holds {len(secret)} bytes; a secret has at least 32")
    return secret


def _told(dataset: ArchiveDataSet, options: frozenset[Option]) -> dict[str, Any]:
    return {
        "made_by": f"dicom-node {dicom_node.__version__}",
        "profile": [{"code": METHODS[each][0], "meaning": METHODS[each][1]} for each in (None, *sorted(options))],
        "edition": "PS3.15 2024b",
        "task": dataset.task,
        "classes": list(dataset.classes),
        "items": len(dataset),
        "subjects": len({item.subject for item in dataset}),
        "images": sum(len(item.image) for item in dataset),
        "feedback": dict(Counter(verdict for item in dataset if (verdict := str(item.attributes.get("feedback", ""))))),
        "skipped": dict(Counter(each.reason for each in dataset.skipped)),
        "burned_in_annotation_not_stated": dataset.unstated,
        "not_done": list(NOT_DONE),
    }


def _json(told: dict[str, Any]) -> str:
    import json

    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"
