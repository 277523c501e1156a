"""A real MONAI bundle that is tiny: its network is the identity, and whatever is bright is the structure it finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

THRESHOLD = 1000.0

INFERENCE: dict[str, Any] = {
    "network_def": {"_target_": "torch.nn.Identity"},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "dtype": None},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
        ],
    },
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "threshold": THRESHOLD}],
    },
}

DICOM = """
[model]
name = "{name}"
version = "{version}"
manufacturer = "Tests"
intended_use = "Tests"
licence = "Apache-2.0"

[series]
match = {{ Modality = "MR" }}
any = [{{ SeriesDescription = "*T1*" }}]
min_instances = 3

[[segment]]
label = "Bright"
category = {{ value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }}
type = {{ value = "12738006", scheme = "SCT", meaning = "Brain" }}

[[measurement]]
quantity = "volume"
segment = "Bright"
"""

# What goes wrong when the network is made, by name: a crash, an endless wait, no memory, an exception.
FAULTS = {
    "crash": "$__import__('os')._exit(3)",
    "hang": "$__import__('time').sleep(3600)",
    "memory": "$bytearray(1 << 60)",
    "raise": "$1 // 0",
}


def tiny_bundle(folder: Path, *, name: str = "tiny", version: str = "1", fault: str | None = None) -> Path:
    """Write the bundle below ``folder``; with a fault its network cannot be made."""
    root = folder / name
    (root / "configs").mkdir(parents=True)
    inference = {**INFERENCE, **({"network_def": FAULTS[fault]} if fault else {})}
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    metadata = {"version": version, "name": name, "network_data_format": {"inputs": {}, "outputs": {}}}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (root / "dicom.toml").write_text(DICOM.format(name=name, version=version))
    return root
