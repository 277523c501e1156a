"""Files of releases: ``releases/<release digest>/`` in the data folder. Written once, never changed.

A copy is made beside its final place and renamed into it when it is whole, synced and has the digest of its name. So a release's folder
is whole or it is not there, whenever the copying ended; and the row that makes it a release is written after.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_node.errors import CommandFailed
from models.bundle import IGNORED_PARTS, Bundle, load_bundle, validate_bundle
from models.errors import BundleInvalid

FOLDER = "releases"
INCOMING = ".incoming-"
MOST_FILES = 10_000
MOST_BYTES = 64 * 1024**3
_BLOCK = 1 << 20


def place_of(root: Path, digest: str) -> Path:
    """Where the files of a release lie below the folder of releases."""
    return root / digest


def read_release(root: Path, digest: str) -> Bundle:
    """Read a release from its files.

    Raises
    ------
    BundleInvalid
        They are missing, or are no longer those of its digest.
    """
    folder = place_of(root, digest)
    if not folder.is_dir():
        raise BundleInvalid(f"the files of release {digest[:12]} are missing: {folder}; put them back with: dicom-node release add")
    bundle = load_bundle(folder)
    if bundle.digest != digest:
        raise BundleInvalid(f"the files of release {digest[:12]} have changed: their digest is {bundle.digest[:12]}; see {folder}")
    return bundle


def keep(source: Path, root: Path) -> Bundle:
    """Copy a bundle's files to their place; the bundle as it is there. A copy that is there and sound stays.

    Raises
    ------
    BundleInvalid
        The folder is no sound bundle, or holds what is no plain file of its own: links, devices, names that a file system may trip over.
    CommandFailed
        There is no room.
    """
    root.mkdir(parents=True, exist_ok=True)
    files = _files_of(source)
    with _alone(root):
        _clear(root)
        incoming = root / f"{INCOMING}{uuid.uuid4().hex}"
        try:
            _copy(source, files, incoming)
            bundle = _sound(incoming)
            _settle(incoming, place_of(root, bundle.digest), bundle.digest)
        except OSError as error:
            raise CommandFailed(f"the files of the release cannot be kept in {root}: {error.strerror}") from error
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
    return read_release(root, bundle.digest)


def _files_of(source: Path) -> list[Path]:
    """The files of a bundle, as paths below it; everything else in it is refused or, as version control and byte code, passed over."""
    if not (source / "dicom.toml").is_file():
        raise BundleInvalid(f"{source} is no bundle: it has no dicom.toml")
    found, size = [], 0
    for folder, names, files in os.walk(source, onerror=_unreadable):
        names[:] = [name for name in names if name not in IGNORED_PARTS]
        for name in (*names, *files):
            path = Path(folder, name)
            relative = path.relative_to(source)
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and name in names:
                continue
            if not stat.S_ISREG(status.st_mode):
                raise BundleInvalid(f"{_shown(relative)} of the bundle is a link or a device; a release has plain files only")
            found.append(relative)
            size += status.st_size
        for name in (*names, *files):
            if not name.isprintable() or "\\" in name or len(name) > 200:
                raise BundleInvalid(f"{_shown(Path(name))} in the bundle is no name for a file of a release")
        if len(found) > MOST_FILES or size > MOST_BYTES:
            raise BundleInvalid(f"{source} has more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB: it is no bundle")
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise BundleInvalid(f"{error.filename} of the bundle cannot be read: {error.strerror}") from error


def _shown(path: Path) -> str:
    return ascii(str(path)[:100])


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the folder of releases against other commands that add; a lock ends with its process."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _clear(root: Path) -> None:
    """Remove what a command left that was interrupted."""
    for stray in root.glob(f"{INCOMING}*"):
        shutil.rmtree(stray, ignore_errors=True)


def _copy(source: Path, files: list[Path], target: Path) -> None:
    target.mkdir()
    folders = {target}
    for relative in files:
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        folders.update(each for each in place.parents if each.is_relative_to(target))
        _copy_file(source / relative, place)
    for folder in sorted(folders, reverse=True):
        _sync_folder(folder)


def _copy_file(source: Path, target: Path) -> None:
    """Copy bytes, synced and read-only from then on. A link put there since is not followed."""
    try:
        reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BundleInvalid(f"{_shown(Path(source.name))} of the bundle cannot be read: {error.strerror}") from error
    with os.fdopen(reading, "rb") as stream, target.open("xb") as copy:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise BundleInvalid(f"{_shown(Path(source.name))} of the bundle is no plain file")
        shutil.copyfileobj(stream, copy, _BLOCK)
        copy.flush()
        os.fchmod(copy.fileno(), 0o444)
        os.fsync(copy.fileno())


def _sound(folder: Path) -> Bundle:
    bundle = load_bundle(folder)
    problems = validate_bundle(bundle)
    if problems:
        raise BundleInvalid("; ".join(str(problem) for problem in problems))
    return bundle


def _settle(incoming: Path, place: Path, digest: str) -> None:
    if place.exists():
        try:
            if load_bundle(place).digest == digest and not validate_bundle(load_bundle(place)):
                return
        except BundleInvalid:
            pass
        place.rename(incoming.with_name(f"{incoming.name}-damaged"))
    incoming.rename(place)
    _sync_folder(place.parent)
    _clear(place.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
