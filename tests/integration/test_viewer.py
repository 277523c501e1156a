"""The viewer is installed whole or not at all, and is served as files of this origin that lead nowhere else."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from dicom_node import viewer
from dicom_node.errors import CommandFailed
from dicom_node.viewer import tarball
from dicom_node.viewer.build import inline_scripts
from dicom_node.viewer.installation import install, installed, remove, root_of
from tests.node import command, settings
from tests.webserver import serving

PAGE = '<head><link href="/app.css"><a href="//x"></a><script>window.PUBLIC_URL="/"</script><script src="/app.js"></script></head>'
BUNDLE = "app.bundle.0f6159c501addfe9.js"
FILES = {
    "package/package.json": "{}",
    "package/LICENSE": "MIT",
    "package/dist/index.html": PAGE,
    f"package/dist/{BUNDLE}": '__webpack_require__.p = "/"; // ' + "x" * 5000,
    "package/dist/app.css": "src: url(/font.woff2)",
    "package/dist/app-config.js": "window.config = { elsewhere: 1 }",
    "package/dist/ort/model.wasm": "large",
    "package/dist/../../outside.js": "escaped",
}


def made(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("package/dist/link.js")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package that is taken for the viewer's."""
    path = made(tmp_path / "package.tgz", FILES)
    known(path, monkeypatch)
    return path


def known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    for module in (tarball, viewer):
        monkeypatch.setattr(module, "SHA512", digest)
    monkeypatch.setattr("dicom_node.viewer.build.SHA512", digest)
    monkeypatch.setattr("dicom_node.viewer.installation.SHA512", digest)


def test_it_is_served_from_its_own_origin_at_once(tmp_path: Path, package: Path) -> None:
    config = settings(tmp_path / "node")
    with serving(config) as web:
        url = f"http://127.0.0.1:{web.port}/viewer"

        missing = web.client.get(f"{url}/")
        assert (missing.status_code, missing.json()["error"]) == (404, "the viewer is not installed; dicom-node viewer install")
        install(root_of(config), package)
        start = web.client.get(f"{url}/")
        assert start.text == web.client.get(f"{url}/viewer?StudyInstanceUIDs=1.2").text == web.client.get(f"{url}/index.html").text
        assert web.client.get(url).headers["location"] == "/viewer/"
        assert ('href="/viewer/app.css"' in start.text, 'href="//x"' in start.text) == (True, True)
        (script,) = inline_scripts(start.text)
        policy = start.headers["content-security-policy"]
        assert script in policy
        assert "http" not in policy
        assert (start.headers["x-content-type-options"], start.headers["cache-control"]) == ("nosniff", "no-cache")
        bundle = web.client.get(f"{url}/{BUNDLE}")
        assert bundle.text.startswith('__webpack_require__.p = "/viewer/"')
        assert (bundle.headers["content-encoding"], bundle.headers["content-type"]) == ("gzip", "text/javascript; charset=utf-8")
        assert "immutable" in bundle.headers["cache-control"]
        assert web.client.get(f"{url}/{BUNDLE}", headers={"If-None-Match": f'"other", W/{bundle.headers["etag"]}'}).status_code == 304
        assert web.client.get(f"{url}/{BUNDLE}", headers={"If-None-Match": '"other"'}).status_code == 200
        plain = web.client.get(f"{url}/{BUNDLE}", headers={"Accept-Encoding": "identity"})
        assert ("content-encoding" in plain.headers, plain.text) == (False, bundle.text)
        assert web.client.get(f"{url}/app.css").text == "src: url(/viewer/font.woff2)"
        configured = web.client.get(f"{url}/app-config.js").text
        settings_of, tour, _ = configured.partition("try {")
        assert ("shownTours" in configured, bool(tour)) == (True, True)
        assert ("elsewhere" in configured, json.loads(settings_of[16:-2])["dataSources"][0]["configuration"]["qidoRoot"]) == (
            False,
            "/dicom-web",
        )
        found = installed(config)
        assert found is not None
        (found.folder / "leads-out.js").symlink_to(package)
        for name in (
            "leads-out.js",
            "ort/model.wasm",
            "link.js",
            "outside.js",
            "../node.toml",
            "%2e%2e/%2e%2e/node.toml",
            "x%00.js",
            "..%5cnode.toml",
            "//etc/x.js",
        ):
            assert web.client.get(f"{url}/{name}").status_code == 404, name
        assert remove(config)
        assert web.client.get(f"{url}/").status_code == 404
    assert not (tmp_path / "outside.js").exists()


def test_with_tokens_its_files_are_open_and_the_data_are_not(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.webserver import configured

    monkeypatch.setenv("TEST_READER", "reader-token-0123456789")
    config = configured(tmp_path / "node", web='tokens = [{ name = "viewer", token = { env = "TEST_READER" } }]')
    install(root_of(config), package)
    with serving(config) as web:
        assert web.client.get(f"http://127.0.0.1:{web.port}/viewer/").status_code == 200
        assert web.client.get(f"{web.url}/studies").status_code == 401


def test_two_installations_at_once_are_one(tmp_path: Path, package: Path) -> None:
    config = settings(tmp_path / "node")
    root_of(config).mkdir(parents=True)
    (root_of(config) / ".new-of-one-that-was-killed").mkdir()
    other = os.open(root_of(config), os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CommandFailed, match="being installed already"):
            install(root_of(config), package)
        assert installed(config) is None
    finally:
        os.close(other)
    assert install(root_of(config), package) == installed(config)
    assert [each.name for each in root_of(config).iterdir()] == [installed(config).folder.name]  # type: ignore[union-attr]


def test_one_that_came_with_the_node_is_served_beside_its_own(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path / "node")
    brought = install(tmp_path / "image", package)
    assert installed(config) is None
    monkeypatch.setenv("DICOM_NODE_VIEWER", str(tmp_path / "image"))
    assert installed(config) == brought
    with serving(config) as web:
        assert web.client.get(f"http://127.0.0.1:{web.port}/viewer/").status_code == 200
    own = install(root_of(config), package)
    assert installed(config) == own != brought
    assert remove(config)
    assert installed(config) == brought
    monkeypatch.setenv("DICOM_NODE_VIEWER", str(tmp_path / "nothing"))
    assert installed(config) is None


def test_another_package_leaves_what_was_there(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path / "node")
    install(root_of(config), package)
    other = made(tmp_path / "other.tgz", {**FILES, "package/dist/app.css": "changed"})
    with pytest.raises(CommandFailed, match="nothing was installed"):
        install(root_of(config), other)
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(other.read_bytes()[: other.stat().st_size // 2])
    known(cut, monkeypatch)
    with pytest.raises(CommandFailed, match="cannot be unpacked"):
        install(root_of(config), cut)
    empty = made(tmp_path / "empty.tgz", {"package/LICENSE": "MIT"})
    known(empty, monkeypatch)
    with pytest.raises(CommandFailed, match=r"index\.html"):
        install(root_of(config), empty)
    known(package, monkeypatch)
    found = installed(config)
    assert found is not None
    assert (found.folder / "app.css").read_text() == "src: url(/viewer/font.woff2)"
    assert [each.name for each in root_of(config).iterdir()] == [viewer.VERSION]
    (found.folder / "installed.json").unlink()
    assert installed(config) is None


def test_the_commands_say_what_is_there_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path / "node")
    status = command(config, "viewer", "status")
    assert (status.returncode, status.stdout) == (1, "not installed; dicom-node viewer install\n")
    assert "viewer\tnot installed" in command(config, "check").stdout
    absent = command(config, "viewer", "install", "--from", str(tmp_path / "none.tgz"))
    assert (absent.returncode, "none.tgz cannot be read: No such file" in absent.stderr) == (1, True)
    monkeypatch.setenv("PATH", str(tmp_path))
    without = command(config, "viewer", "install")
    assert (without.returncode, "npm is not installed: fetch the package elsewhere" in without.stderr) == (1, True)


@pytest.mark.peer("npm")
def test_what_npm_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    config = settings(tmp_path / "node")
    done = command(config, "viewer", "install")
    assert done.returncode == 1
    assert "npm could not fetch @ohif/app@3.13.2: " in done.stderr
    assert "ECONNREFUSED" in done.stderr
    assert list(root_of(config).iterdir()) == []
