"""The installed viewer at /viewer: static files of the node's own origin, so that it asks for images without any further setting.

Its files carry no patient's data and are given to everybody; what it asks for at /dicom-web needs what every client needs.
"""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from dicom_node.node import Node
from dicom_node.viewer import BASE, INSTALL
from dicom_node.viewer.build import CONFIGURATION, configuration
from dicom_node.viewer.installation import Installation, installed
from dicom_node.web.dicomweb.errors import NoSuchResource

START: Final = "index.html"
HASHED: Final = 16  # digits of the digest in the names of files that never change
TYPES: Final = {".js": "text/javascript", ".wasm": "application/wasm", ".woff2": "font/woff2", ".json": "application/json"}
YEAR: Final = "public, max-age=31536000, immutable"


def policy(scripts: tuple[str, ...]) -> str:
    """The Content-Security-Policy of the viewer's files: nothing of any other origin.

    'unsafe-eval' is for the compiled loops with which it reads a segmentation, and for its decoders' workers.
    """
    return (
        f"default-src 'none'; script-src 'self' 'unsafe-eval' 'wasm-unsafe-eval' {' '.join(scripts)}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self'; connect-src 'self' blob: data:; media-src 'self' blob:; worker-src 'self' blob:; "
        "manifest-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def routes(node: Node) -> list[BaseRoute]:
    """The viewer's addresses."""

    def viewer(request: Request) -> Response:
        found = installed(node.config)
        if found is None:
            raise NoSuchResource(f"the viewer is not installed; {INSTALL}")
        return _file(request, found, request.path_params["file"])

    def start(request: Request) -> Response:
        return RedirectResponse(f"{BASE}/", status_code=308)

    return [Route(BASE, start), Route(f"{BASE}/{{file:path}}", viewer)]


def _file(request: Request, found: Installation, name: str) -> Response:
    """A file; what is none is one of the viewer's own pages, and its start page is sent."""
    if name == CONFIGURATION:
        return Response(configuration(), media_type=TYPES[".js"], headers={"Cache-Control": "no-cache"})
    path = _inside(found.folder, name)
    if path is None or not path.is_file():
        if "." in name.rpartition("/")[2]:
            raise NoSuchResource("the viewer has no such file")
        path = found.folder / START
    headers = {"Content-Security-Policy": policy(found.scripts), "Cache-Control": _keeping(path), "Vary": "Accept-Encoding"}
    media_type = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    packed = path.with_name(f"{path.name}.gz")
    if "gzip" in request.headers.get("accept-encoding", "") and packed.is_file():
        path, headers = packed, {**headers, "Content-Encoding": "gzip"}
    answer = FileResponse(path, media_type=media_type, headers=headers, stat_result=os.stat(path))
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if answer.headers["etag"] in known:
        return Response(status_code=304, headers={**headers, "ETag": answer.headers["etag"]})
    return answer


def _inside(folder: Path, name: str) -> Path | None:
    """The path of a name that stays in the folder; of no link that leads out of it."""
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        return None
    path = folder.joinpath(*parts)
    return path if path.resolve().is_relative_to(folder.resolve()) else None


def _keeping(path: Path) -> str:
    """How long a browser keeps a file: for ever where its name holds its digest."""
    digests = [part for part in path.name.split(".") if len(part) == HASHED and all(digit in "0123456789abcdef" for digit in part)]
    return YEAR if digests and path.name != START else "no-cache"
