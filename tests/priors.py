"""A real MONAI bundle that compares with an earlier study: what is bright now, and what was bright then."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydicom import Dataset

from tests.node import bright_series
from tests.several_inputs import DICOM as PAIR
from tests.tiny_bundle import INFERENCE


def comparing_bundle(folder: Path, *, more: str = "") -> Path:
    """Write the bundle below ``folder``; ``more``: keys of its [prior]."""
    root = folder / "compare"
    (root / "configs").mkdir(parents=True)
    inference: dict[str, Any] = deepcopy(INFERENCE)
    for step in inference["preprocessing"]["transforms"]:
        step["keys"] = ["image", "then"]
    inference["preprocessing"]["transforms"].append({"_target_": "ConcatItemsd", "keys": ["image", "then"], "name": "image", "dim": 0})
    inference["postprocessing"]["transforms"] = [{"_target_": "Identityd", "keys": "pred"}]
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    metadata = {"version": "1", "name": "compare", "network_data_format": {"inputs": {}, "outputs": {}}}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    text = PAIR.format(more="", threshold=1000.0).replace('name = "pair"', 'name = "compare"')
    text = text.replace('name = "flair"\nany = [{ SeriesDescription = "*FLAIR*" }]', 'name = "then"\nprior = true')
    (root / "dicom.toml").write_text(f'{text}\n[prior]\nmodality = "MR"\n{more}\n')
    return root


RULE = """
[[rule]]
name = "compare"
match = { Modality = "MR" }
run = ["compare"]
"""


def study(date: str, *, bright: bool = True, slices: int = 6, **attributes: Any) -> list[Dataset]:
    """A study of the patient on a day."""
    return bright_series(slices, bright=bright, **{"StudyDate": date, "PatientBirthDate": "19500101", **attributes})
