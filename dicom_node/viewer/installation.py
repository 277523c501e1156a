"""Where the viewer lies, whether it is whole, and how it gets there: all of it or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicom_node.config import Config
from dicom_node.errors import CommandFailed
from dicom_node.viewer import SHA512, VERSION, tarball
from dicom_node.viewer.build import DESCRIPTION, build


@dataclass(frozen=True)
class Installation:
    """An installed viewer. ``scripts``: the digests of its start page's own scripts, for the policy that it is served with."""

    folder: Path
    version: str
    scripts: tuple[str, ...]


BROUGHT: Final = "DICOM_NODE_VIEWER"
"""The environment variable that names a folder with a viewer that came with the node, as in its image."""


def root_of(config: Config) -> Path:
    """The folder that holds the viewer of this node's own."""
    return config.node.data_dir / "viewer"


def installed(config: Config) -> Installation | None:
    """The viewer of the version that this node is made for, its own or one that came with it; None where neither is whole."""
    brought = os.environ.get(BROUGHT)
    return _whole(root_of(config)) or (_whole(Path(brought)) if brought else None)


def _whole(root: Path) -> Installation | None:
    folder = root / VERSION
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if described["sha512"] != SHA512:
            return None
        return Installation(folder, described["version"], tuple(described["scripts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def install(root: Path, given: Path | None = None) -> Installation:
    """Install the viewer into a folder, from a tarball or by npm; what is there of another version goes once the new one is in its place.

    Raises
    ------
    CommandFailed
        It cannot be fetched, is not the package that it should be, or cannot be written; what was there stays. Or it is being
        installed already.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root), tempfile.TemporaryDirectory(dir=root, prefix=".new-") as temporary:
            package = given or tarball.fetch(Path(temporary))
            tarball.verify(package)
            made = Path(temporary) / "viewer"
            made.mkdir()
            build(package, made)
            os.sync()  # before its name says that it is whole
            _put(made, root / VERSION)
            _clear(root, but={VERSION, made.parent.name})
    except OSError as error:
        raise CommandFailed(f"the viewer cannot be written to {root}: {error.strerror or error}") from None
    found = _whole(root)
    assert found is not None
    return found


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Held by one installation at a time; whoever dies lets go of it."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CommandFailed("the viewer is being installed already; wait for that") from None
    finally:
        os.close(folder)


def _clear(root: Path, *, but: set[str]) -> None:
    """Remove other versions, and what an installation left that was killed."""
    for other in root.iterdir():
        if other.name not in but:
            shutil.rmtree(other, ignore_errors=True)


def _put(made: Path, place: Path) -> None:
    if place.exists():
        place.replace(made.parent / "before")  # goes with the temporary folder
    made.replace(place)


def remove(config: Config) -> bool:
    """Remove the viewer; whether there was one.

    Raises
    ------
    CommandFailed
        It cannot be removed.
    """
    root = root_of(config)
    there = root.is_dir()
    try:
        if there:
            shutil.rmtree(root)
    except OSError as error:
        raise CommandFailed(f"the viewer cannot be removed from {root}: {error.strerror or error}") from None
    return there
