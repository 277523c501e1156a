"""A model on a folder of DICOM files, without archive, network or jobs: the same selection, the same run, the same encoding."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

import dicom_node
from dicom_node.errors import CommandFailed
from dicom_node.results.context import ResultContext
from dicom_node.results.files import part10
from dicom_node.results.uids import device_uid
from dicom_node.routing.selection import Verdict, select_inputs
from dicom_node.work.attributes import attributes_of
from dicom_node.work.inference import Answer, FilePart, Request, Runner
from dicom_node.work.inputs import with_inputs
from models.bundle import Bundle
from storage.runs import run_key


@dataclass(frozen=True)
class Done:
    """A finished run on a folder."""

    answer: Answer
    series_uid: str
    files: tuple[Path, ...]


def run_folder(bundle: Bundle, folder: Path, out: Path, *, device: str, cache: Path | None, now: float) -> Done:
    """Run a model on the series of a folder that it needs; write SEG and SR to ``out``.

    Raises
    ------
    CommandFailed
        There is no such series, or several fit equally well; the message tells why, series by series.
    """
    series, group = _chosen(bundle, folder)
    given = [series[group[each.name]] if each.name in group else [] for each in bundle.dicom.inputs]
    uid, chosen = next(iter(group.values())), given[0]
    images = [tuple(FilePart(str(path), 0, path.stat().st_size) for path, _ in files) for files in given]
    digests = [(str(header.SOPInstanceUID), hashlib.sha256(path.read_bytes()).hexdigest()) for files in given for path, header in files]
    context = ResultContext(
        run_key=run_key(digests, bundle.digest, with_inputs(bundle, group)),
        study_uid=str(chosen[0][1].StudyInstanceUID),
        bundle=bundle.name,
        device_uid=device_uid("standalone", bundle.digest),
        software_version=dicom_node.__version__,
        started_at=now,
        kinds=tuple(bundle.dicom.output.kinds),
    )
    answer = Runner(device, cache=cache).run(Request(str(bundle.root), bundle.digest, images[0], context, others=tuple(images[1:])))
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for item in answer.objects:
        path = out / f"{bundle.name}-{item.kind}.dcm"
        path.write_bytes(part10(item))
        files.append(path)
    return Done(answer, uid, tuple(files))


def choose_series(bundle: Bundle, folder: Path) -> tuple[str, list[tuple[Path, Dataset]]]:
    """The series of a folder that a model needs, the first of several: its UID, and its files with their headers.

    Raises
    ------
    CommandFailed
    """
    series, group = _chosen(bundle, folder)
    uid = next(iter(group.values()))
    return uid, series[uid]


def _chosen(bundle: Bundle, folder: Path) -> tuple[dict[str, list[tuple[Path, Dataset]]], dict[str, str]]:
    """The series of a folder with their files, and which of them is which input."""
    if bundle.dicom.prior is not None and bundle.dicom.prior.required:
        raise CommandFailed(f"{bundle.name} needs an earlier study: it runs on a node")
    if bundle.dicom.predecessors:
        names = ", ".join(model for _, model in bundle.dicom.predecessors)
        raise CommandFailed(f"{bundle.name} takes what {names} finds: it runs on a node, by a rule that runs both")
    series = _read(folder)
    attributes = {uid: _attributes(found) for uid, found in series.items()}
    selection = select_inputs(bundle.dicom.inputs, attributes)
    if selection.verdict is not Verdict.CHOSEN:
        reasons = "".join(f"\n  series {choice.series_uid}: {choice.reason}" for choice in selection.choices)
        raise CommandFailed(f"{bundle.name} has no series to run on in {folder}: {selection.summary}{reasons}")
    return dict(series), {name or bundle.dicom.inputs[0].name: uid for name, uid in selection.groups[0].items()}


def _read(folder: Path) -> dict[str, list[tuple[Path, Dataset]]]:
    if not folder.is_dir():
        raise CommandFailed(f"{folder} is no folder")
    series: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        try:
            header = dcmread(path, stop_before_pixels=True)
            series[str(header.SeriesInstanceUID)].append((path, header))
        except (InvalidDicomError, AttributeError, OSError, ValueError):
            continue
    return series


def _attributes(found: list[tuple[Path, Dataset]]) -> dict[str, Any]:
    return {**attributes_of(found[len(found) // 2][1]), "NumberOfSeriesRelatedInstances": len(found)}
