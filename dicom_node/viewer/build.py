"""What becomes of the package's files: those that the viewer needs, with addresses below /viewer; and the configuration of this node."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from dicom_node.errors import CommandFailed
from dicom_node.viewer import BASE, PACKAGE, SHA512, VERSION

DIST: Final = "package/dist/"
LICENCE: Final = "package/LICENSE"
# Models for segmentation in the browser, a viewer of microscopy, scripts of other sites, a worker that only removes itself: 157 of 204 MB;
# and the configuration, in whose place the web server gives this node's.
LEFT_OUT: Final = (
    "app-config.js", "ort/", "dicom-microscopy-viewer/", "customizations/", "google.js", "sw.js", "_headers", "_redirects", "serve.json",
)  # fmt: skip
CONFIGURATION: Final = "app-config.js"
DESCRIPTION: Final = "installed.json"
PACKED: Final = (".js", ".css", ".wasm", ".svg", ".json", ".html")
WORTH_PACKING: Final = 4096  # bytes
# A radiograph's segmentation has no Pixel Measures (PS3.3 A.51.5: required with a Frame of Reference only); this version breaks over it.
_NOT_PLACED: Final = b"} = PixelMeasures;", b"} = PixelMeasures ?? {};"
_ADDRESSES: Final = re.compile(r'\b(src|href|content)="/(?!/)')
_SCRIPTS: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def build(tarball: Path, folder: Path) -> None:
    """Fill an empty folder.

    Raises
    ------
    CommandFailed
        The package is not built as it should be, or the disk is full.
    """
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for name, content in _members(archive):
                _write(folder / name, _rewritten(name, content))
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise CommandFailed(f"{tarball.name} cannot be unpacked: {error}") from None
    except OSError as error:
        raise CommandFailed(f"the viewer cannot be written to {folder}: {error.strerror or error}") from None
    start = folder / "index.html"
    if not start.is_file():
        raise CommandFailed(f"{tarball.name} has no {DIST}index.html")
    described = {"package": PACKAGE, "version": VERSION, "sha512": SHA512, "scripts": inline_scripts(start.read_text("utf-8"))}
    (folder / DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """The files that are needed, by their path below the viewer's folder; nothing that points outside of it."""
    for member in archive:
        if not member.isfile():
            continue
        name = member.name.removeprefix(DIST) if member.name.startswith(DIST) else "LICENSE" if member.name == LICENCE else ""
        path = PurePosixPath(name)
        if not name or name == CONFIGURATION or path.is_absolute() or ".." in path.parts:
            continue
        if name.startswith(LEFT_OUT) or name.endswith(".map"):
            continue
        stream = archive.extractfile(member)
        if stream is not None:
            yield name, stream.read()


def _rewritten(name: str, content: bytes) -> bytes:
    if name.endswith(".html"):
        text = content.decode("utf-8").replace('window.PUBLIC_URL="/"', f'window.PUBLIC_URL="{BASE}/"')
        return _ADDRESSES.sub(rf'\1="{BASE}/', text).encode()
    if name.endswith(".js"):
        return content.replace(b'__webpack_require__.p = "/"', f'__webpack_require__.p = "{BASE}/"'.encode()).replace(*_NOT_PLACED)
    if name.endswith(".css"):
        return content.replace(b"url(/", f"url({BASE}/".encode())
    if name == "manifest.json":
        return content.replace(b'"/', f'"{BASE}/'.encode())
    return content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if path.suffix in PACKED and len(content) >= WORTH_PACKING:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 6, mtime=0))


def inline_scripts(page: str) -> list[str]:
    """The digests of a page's own scripts, as a Content-Security-Policy names them."""
    return [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in _SCRIPTS.findall(page)]


def configuration() -> str:
    """The viewer's configuration: this node is its only source, by addresses of the same origin; no question before a result is shown."""
    source = {
        "friendlyName": "dicom-node",
        "name": "dicom-node",
        "qidoRoot": "/dicom-web",
        "wadoRoot": "/dicom-web",
        "wadoUriRoot": "/dicom-web",
        "qidoSupportsIncludeField": True,
        "supportsFuzzyMatching": True,
        "supportsWildcard": True,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "dicomUploadEnabled": False,
        "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
        "singlepart": "bulkdata,video,pdf",
        "omitQuotationForMultipartRequest": True,
    }
    dicomweb = {"namespace": "@ohif/extension-default.dataSourcesModule.dicomweb", "sourceName": "dicomweb", "configuration": source}
    settings = {
        "routerBasename": BASE,
        "extensions": [],
        "modes": [],
        "customizationService": {},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 3,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": True,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "disableConfirmationPrompts": True,
        "investigationalUseDialog": {"option": "never"},
        "maxNumRequests": {"interaction": 100, "thumbnail": 5, "prefetch": 25},
        "showErrorDetails": "dev",
        "defaultDataSourceName": "dicomweb",
        "dataSources": [dicomweb],
    }
    return f"window.config = {json.dumps(settings, indent=1)};\n{_NO_TOUR}"


# Whoever opens a study wants to see it, and not a guided tour of the viewer before it.
_NO_TOUR: Final = """try {
 localStorage.shownTours ??= '["basicViewerTour"]';
} catch { /* the browser keeps nothing: then there is a tour */ }
"""
