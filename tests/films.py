"""Radiographs for several runs of one planar bundle at the same time, and bundles that do with some of them what no model should."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import generate_uid

from dicom_node.results.context import ResultContext
from dicom_node.work.inference import FilePart, Request
from models.bundle import load_bundle
from tests.imaging import as_file
from tests.planar_bundle import planar_bundle, radiograph

RULE = """
[[rule]]
name = "films"
match = { Modality = ["CR", "DX"] }
run = ["%s"]
"""
FAULTY = """
import os
import pathlib
import time

import torch


class Faulty(torch.nn.Module):
    '''The identity. For more than `most` images at once it lacks memory, with more than `ends` it ends the process without a word, and with
    more than one it waits until the file `gate` is there.'''

    def __init__(self, most: int = 1000, ends: int = 1000, gate: str = ''):
        super().__init__()
        self.most, self.ends, self.gate = most, ends, gate

    def forward(self, x):
        if self.gate and len(x) > 1:
            pathlib.Path(self.gate + '.entered').touch()
            while not pathlib.Path(self.gate).exists():
                time.sleep(0.01)
        if len(x) > self.ends:
            os._exit(9)
        if len(x) > self.most:
            raise torch.OutOfMemoryError('as a device says it')
        return x


def fault(x):
    '''By the number of its columns a film ends the process, never ends, or raises.'''
    if x.shape[1] == 66:
        os._exit(3)
    if x.shape[1] == 67:
        time.sleep(3600)
    if x.shape[1] == 68:
        raise ValueError('of this film only')
    return x
"""
CRASHES, HANGS, RAISES = 66, 67, 68  # columns


def chest(seed: int, rows: int = 160, columns: int = 144) -> NDArray[np.int16]:
    """Something like a chest film: bright, with two dark fields whose place and size depend on the seed, and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:1:rows * 1j, 0:1:columns * 1j]
    values = np.full((rows, columns), 2800.0)
    for centre in (0.3, 0.7):
        cx, cy = centre + random.uniform(-0.03, 0.03), 0.5 + random.uniform(-0.05, 0.05)
        values -= 1900 * (((x - cx) / random.uniform(0.13, 0.18)) ** 2 + ((y - cy) / random.uniform(0.25, 0.33)) ** 2 < 1)
    return (values + random.normal(0, 40, values.shape)).clip(0, 4095).astype(np.int16)


def film(values: NDArray[Any] | None = None, **attributes: Any) -> Dataset:
    """A radiograph in a study of its own."""
    image = radiograph(values, **attributes)
    image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def requests_for(root: Path, films: Sequence[Dataset], folder: Path) -> list[Request]:
    """One run for each film."""
    digest, made = load_bundle(root).digest, []
    for number, image in enumerate(films):
        path = folder / f"film-{number}.dcm"
        path.write_bytes(as_file(image).getvalue())
        context = ResultContext(f"key-{number}", str(image.StudyInstanceUID), root.name, "2.25.1", "0", 1_700_000_000.0)
        made.append(Request(str(root), digest, (FilePart(str(path), 0, path.stat().st_size),), context))
    return made


def faulty_bundle(folder: Path, **network: Any) -> Path:
    """The planar bundle, whose network and preprocessing have faults."""
    root = planar_bundle(folder)
    (root / "scripts").mkdir()
    (root / "scripts" / "__init__.py").write_text("")
    (root / "scripts" / "faulty.py").write_text(FAULTY)
    file = root / "configs" / "inference.json"
    inference = json.loads(file.read_text())
    inference["network_def"] = {"_target_": "scripts.faulty.Faulty", **network}
    step = {"_target_": "Lambdad", "keys": "image", "func": "$__import__('scripts.faulty', fromlist=['fault']).fault"}
    inference["preprocessing"]["transforms"].insert(2, step)
    file.write_text(json.dumps(inference))
    return root
