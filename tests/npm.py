"""JavaScript peers from the npm registry: one tarball, of one version, whose bytes are known. None of their scripts runs."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from dicom_node.viewer import VERSION
from dicom_node.viewer.tarball import fetch

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "npm"


def package(name: str, version: str, sha512: str) -> Path:
    """The unpacked package, fetched once.

    Parameters
    ----------
    sha512
        The tarball's digest in base64, as lock files write it.
    """
    folder = CACHE / f"{name.strip('@').replace('/', '-')}-{version}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            _put(_fetch(f"{name}@{version}", Path(temporary), sha512), folder)
    return folder


def _put(made: Path, folder: Path) -> None:
    """Move what was made to its place; where another process did so meanwhile, that is it."""
    try:
        made.replace(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _fetch(what: str, folder: Path, sha512: str) -> Path:
    npm = shutil.which("npm")
    assert npm is not None, "npm is not installed"
    subprocess.run([npm, "pack", "--silent", what], cwd=folder, check=True, timeout=300, stdout=subprocess.DEVNULL)
    (tarball,) = folder.glob("*.tgz")
    found = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    assert found == sha512, f"{what}: the tarball's SHA-512 is {found}"
    with tarfile.open(tarball) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def installed(manifest: Path) -> Path:
    """The folder of the modules that a ``package.json`` and its lock file name, installed once; the lock holds their digests."""
    lock = (manifest / "package-lock.json").read_bytes()
    folder = CACHE / f"{manifest.name}-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            made = Path(temporary) / "modules"
            made.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(manifest / name, made)
            npm = shutil.which("npm")
            assert npm is not None, "npm is not installed"
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            subprocess.run(command, cwd=made, check=True, timeout=300, stdout=subprocess.DEVNULL)
            _put(made, folder)
    return folder


def viewer() -> Path:
    """The viewer's package as a tarball, fetched once as ``viewer install`` fetches it."""
    found = CACHE / f"viewer-{VERSION}.tgz"
    if not found.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            fetch(Path(temporary)).replace(found)
    return found
