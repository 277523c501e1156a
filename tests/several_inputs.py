"""A real MONAI bundle of two inputs, T1 and FLAIR: each channel's bright voxels are a structure of their own."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

from tests.tiny_bundle import INFERENCE

DICOM = """
[model]
name = "pair"
version = "1"
manufacturer = "Tests"
intended_use = "Tests"
licence = "Apache-2.0"

[[input]]
name = "t1"
any = [{{ SeriesDescription = "*T1*" }}]
min_instances = 3

[[input]]
name = "flair"
any = [{{ SeriesDescription = "*FLAIR*" }}]
{more}

[output]
form = "channels"
threshold = {threshold}

[[segment]]
label = "In T1"
value = 0
category = {{ value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }}
type = {{ value = "12738006", scheme = "SCT", meaning = "Brain" }}

[[segment]]
label = "In FLAIR"
value = 1
category = {{ value = "49755003", scheme = "SCT", meaning = "Morphologically Altered Structure" }}
type = {{ value = "52988006", scheme = "SCT", meaning = "Lesion" }}

[[measurement]]
quantity = "volume"
segment = "In FLAIR"
"""


def pair_bundle(folder: Path, *, more: str = "", threshold: float = 1000.0) -> Path:
    """Write the bundle below ``folder``; ``more``: keys of its second input."""
    root = folder / "pair"
    (root / "configs").mkdir(parents=True)
    inference = deepcopy(INFERENCE)
    inference["postprocessing"]["transforms"] = [{"_target_": "Identityd", "keys": "pred"}]
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    metadata = {"version": "1", "name": "pair", "network_data_format": {"inputs": {}, "outputs": {}}}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (root / "dicom.toml").write_text(DICOM.format(more=more, threshold=threshold))
    return root
