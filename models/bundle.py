"""A MONAI bundle directory plus its dicom.toml.

    <name>/configs/metadata.json      MONAI's own description
    <name>/configs/inference.json     preprocessing, network_def, inferer, postprocessing
    <name>/dicom.toml                 what DICOM needs (:mod:`models.spec`)
    <name>/models/...                 weights that ship with the bundle; others by pinned reference

Nothing is executed here: reading, validating and digesting a bundle touch its text only. A bundle is
code all the same (MONAI evaluates ``$`` expressions), so only the worker's child process runs one, and
only under the digest that was recorded for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from models.errors import BundleInvalid
from models.spec import DicomSpec, WeightSpec, parse_spec

SHIPPED = Path(__file__).parent / "bundles"
WEIGHT_SUFFIXES = frozenset({".pt", ".pth", ".ts", ".safetensors", ".onnx"})
IGNORED_PARTS = frozenset({"__pycache__", ".git"})


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a bundle: where, and what to do."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read, not run."""

    root: Path
    metadata: dict[str, Any]
    inference: dict[str, Any]
    dicom: DicomSpec

    @property
    def name(self) -> str:
        return self.dicom.model.name

    @property
    def version(self) -> str:
        return self.dicom.model.version

    @cached_property
    def digest(self) -> str:
        """The release digest: SHA-256 (hex) over dicom.toml, the configs and scripts, and the pinned
        SHA-256 of each weight file. The same on every machine: it knows no place and no file times."""
        total = hashlib.sha256(b"dicom-node release 1\n")
        for path in release_files(self.root):
            total.update(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(self.root).as_posix()}\n".encode())
        for weight in sorted(self.dicom.weights, key=lambda weight: weight.file):
            total.update(f"{weight.sha256}  {weight.file}\n".encode())
        return total.hexdigest()

    @property
    def batches(self) -> bool:
        """Whether its network takes several inputs in one pass: single 2-D images that go through one network as they are."""
        spec, inferer = self.dicom, self.inference.get(self.dicom.run.inferer)
        plain = isinstance(inferer, dict) and str(inferer.get("_target_")).rsplit(".", 1)[-1] == "SimpleInferer"
        alone = len(spec.inputs) == len(spec.run.networks) == 1
        return spec.geometry.dimensions == 2 and spec.run.batch and alone and plain


def release_files(root: Path) -> list[Path]:
    """The files whose content decides what the bundle does, in a fixed order: all but weights (they
    are pinned one by one) and documentation."""
    found = [path for path in root.rglob("*") if path.is_file() and _decides(path.relative_to(root))]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _decides(path: Path) -> bool:
    documentation = path.suffix == ".md" or path.name.startswith("LICENSE") or path.parts[0] == "docs"
    return not (documentation or path.suffix in WEIGHT_SUFFIXES or IGNORED_PARTS.intersection(path.parts))


def load_bundle(where: str | Path, search_paths: Sequence[Path] = ()) -> Bundle:
    """Read a bundle by directory or by name.

    Raises
    ------
    BundleInvalid
        It does not exist, or its files do not make a bundle.
    """
    root = Path(where)
    if not root.is_dir():
        root = find_bundle(str(where), search_paths)
    inference = _read_json(root / "configs" / "inference.json")
    metadata = _read_json(root / "configs" / "metadata.json")
    text = _read_text(root / "dicom.toml")
    return Bundle(root.resolve(), metadata, inference, parse_spec(text))


def find_bundle(name: str, search_paths: Sequence[Path] = ()) -> Path:
    """The directory of the bundle called ``name``; the search paths come before the shipped ones."""
    known = dict(_directories((*search_paths, SHIPPED)))
    if name not in known:
        raise BundleInvalid(f"there is no bundle '{name}'; known: {', '.join(sorted(known)) or 'none'}")
    return known[name]


def list_bundles(search_paths: Sequence[Path] = ()) -> list[Bundle]:
    """All readable bundles, by name; what is unreadable is left out (``validate_bundle`` says why)."""
    found = []
    for _, directory in sorted(_directories((*search_paths, SHIPPED))):
        try:
            found.append(load_bundle(directory))
        except BundleInvalid:
            continue
    return found


def _directories(search_paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    seen: set[str] = set()
    for base in search_paths:
        for directory in sorted(base.iterdir()) if base.is_dir() else ():
            if directory.name not in seen and (directory / "dicom.toml").is_file():
                seen.add(directory.name)
                yield directory.name, directory


def validate_bundle(bundle: Bundle) -> list[Problem]:
    """Everything about a bundle that would stop or spoil a run; empty when it is sound.

    Reads text only: no expression of the bundle is evaluated.
    """
    return [*_missing_sections(bundle), *_weight_problems(bundle), *_metadata_problems(bundle)]


def _missing_sections(bundle: Bundle) -> Iterator[Problem]:
    run = bundle.dicom.run
    for key in (run.preprocessing, *run.networks, run.inferer, run.postprocessing):
        if not _present(bundle.inference, key):
            yield Problem("configs/inference.json", f"has no '{key}', which [run] of dicom.toml names")


def _present(config: Any, key: str) -> bool:
    for part in key.replace("#", "::").split("::"):
        if isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict) and part in config:
            config = config[part]
        else:
            return False
    return True


def _weight_problems(bundle: Bundle) -> Iterator[Problem]:
    pinned = {weight.file for weight in bundle.dicom.weights}
    models = bundle.root / "models"
    for path in sorted(models.rglob("*")) if models.is_dir() else ():
        relative = path.relative_to(bundle.root).as_posix()
        if path.is_file() and path.suffix in WEIGHT_SUFFIXES and relative not in pinned:
            yield Problem("dicom.toml", f'{relative} is not pinned; add [[weights]] file = "{relative}", sha256 = "{file_sha256(path)}"')
    for weight in bundle.dicom.weights:
        yield from _shipped_weight(bundle, weight)


def _shipped_weight(bundle: Bundle, weight: WeightSpec) -> Iterator[Problem]:
    if weight.referenced:
        return
    path = bundle.root / weight.file
    if not path.is_file():
        yield Problem(weight.file, "is pinned in dicom.toml and missing")
    elif file_sha256(path) != weight.sha256:
        yield Problem(weight.file, "is not the file that dicom.toml pins (SHA-256 differs)")


def _metadata_problems(bundle: Bundle) -> Iterator[Problem]:
    for key in ("version", "monai_version", "network_data_format"):
        if key not in bundle.metadata:
            yield Problem("configs/metadata.json", f"has no '{key}'")
    version = bundle.metadata.get("version")
    if version is not None and version != bundle.version:
        yield Problem("dicom.toml", f"model.version is {bundle.version}, metadata.json says {version}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleInvalid(f"{path.parent.name}/{path.name} cannot be read ({type(error).__name__})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise BundleInvalid(f"{path.parent.name}/{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleInvalid(f"{path.parent.name}/{path.name} must hold a JSON object")
    return content
