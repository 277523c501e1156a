"""The finished bundle: configs, dicom.toml, weights, fingerprint, card and curve, appearing in one step."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.bundle import file_sha256
from models.training.card import card
from models.training.config import TrainingConfig
from models.training.errors import TrainingRefused
from models.training.record import Record

WEIGHTS = "models/model.safetensors"


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle, beside the configuration.

    Parameters
    ----------
    sections
        ``inferer`` and ``postprocessing`` of configs/inference.json, and whatever else the task adds.
    state
        The network's weights.
    """

    sections: Mapping[str, Any]
    state: Mapping[str, torch.Tensor]
    classes: Sequence[str]
    image_shape: Sequence[int]
    outputs: int
    fingerprint: str | None
    record: Record


def write_bundle(config: TrainingConfig, contents: Contents, out: Path) -> Path:
    """Write the bundle folder ``out``, which must not exist.

    Raises
    ------
    TrainingRefused
        The folder exists.
    """
    if out.exists():
        raise TrainingRefused(f"{out} exists already")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _fill(config, contents, folder)
        folder.chmod(0o755)
        os.rename(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return out


def _fill(config: TrainingConfig, contents: Contents, folder: Path) -> None:
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir()
    weights = folder / WEIGHTS
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in contents.state.items()}, weights)
    weights.chmod(0o644)
    _json(folder / "configs" / "inference.json", inference(config, contents.sections))
    _json(folder / "configs" / "metadata.json", metadata(config, contents))
    _json(folder / "configs" / "train.json", {**_told(config), "classes": list(contents.classes)})
    _json(folder / "docs" / "training.json", contents.record.as_json())
    (folder / "README.md").write_text(card(config, contents.classes, contents.record), encoding="utf-8")
    if contents.fingerprint is not None:
        (folder / "fingerprint.json").write_text(contents.fingerprint, encoding="utf-8")
    if config.dicom is not None:
        (folder / "dicom.toml").write_text(dicom_toml(config.dicom, file_sha256(weights)), encoding="utf-8")


def _told(config: TrainingConfig) -> dict[str, Any]:
    """The configuration, with the file that it started from by its digest: a path says something of this machine only."""
    content = config.model_dump(mode="json", exclude_none=True)
    if config.run.pretrained:
        content["run"]["pretrained"] = f"sha256:{file_sha256(Path(config.run.pretrained))}"
    return content


def inference(config: TrainingConfig, sections: Mapping[str, Any]) -> dict[str, Any]:
    """configs/inference.json: the loader, then the graph that training ran, word for word."""
    head = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
    return {
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": config.network,
        "preprocessing": {"_target_": "Compose", "transforms": [*head, *config.preprocessing]},
        **sections,
    }


def metadata(config: TrainingConfig, contents: Contents) -> dict[str, Any]:
    """configs/metadata.json in MONAI's schema."""
    model = (config.dicom or {}).get("model", {})
    channels, *spatial = contents.image_shape
    names = ["background", *contents.classes] if config.task == "segmentation" else list(contents.classes)
    image = {"type": "image", "dtype": "float32", "value_range": [], "is_patch_data": config.patches is not None}
    shape = list(config.patches.size) if config.patches else spatial
    return {
        "version": str(model.get("version", "0.1.0")),
        "changelog": {str(model.get("version", "0.1.0")): "trained"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {},
        "name": config.card.title or str(model.get("name", "")),
        "task": config.task,
        "description": config.card.summary,
        "authors": str(model.get("manufacturer", "")),
        "copyright": str(model.get("licence", "")),
        "intended_use": str(model.get("intended_use", "")),
        "data_source": config.data.source,
        "network_data_format": {
            "inputs": {
                "image": {**image, "format": "magnitude", "num_channels": channels, "spatial_shape": shape, "channel_def": {"0": "image"}}
            },
            "outputs": {
                "pred": {
                    **image,
                    "format": config.task,
                    "num_channels": contents.outputs,
                    "spatial_shape": shape,
                    "channel_def": {str(number): name for number, name in enumerate(names)},
                }
            },
        },
    }


def dicom_toml(tables: Mapping[str, Any], sha256: str) -> str:
    """dicom.toml: the configuration's tables and the weights, pinned."""
    try:
        import tomli_w
    except ImportError as error:
        raise TrainingRefused("writing dicom.toml needs tomli-w: pip install 'dicom-node[training]'") from error
    return tomli_w.dumps({**tables, "weights": [{"file": WEIGHTS, "sha256": sha256}]})


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
