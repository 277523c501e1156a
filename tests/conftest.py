"""Options and fixtures that every test may use."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from pynetdicom.transport import AssociationSocket

from tests.postgresql import binaries

ROOT = Path(__file__).resolve().parent.parent
NO_IMAGES = "no folder of real images: set DICOM_NODE_DATA"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-peers", action="store_true", help="fail, instead of skip, where a peer program or PostgreSQL is missing")


def unavailable(config: pytest.Config, why: str) -> None:
    """Skip the running test with a reason that is shown; with --require-peers, fail it."""
    if config.getoption("--require-peers"):
        pytest.fail(f"{why} (--require-peers)", pytrace=False)
    pytest.skip(why)


def data_folder() -> Path | None:
    """Find the folder of real images: DICOM_NODE_DATA, or ``shared/data`` beside the checkout."""
    named = os.environ.get("DICOM_NODE_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("peer"):
        name = str(marker.args[0])
        if shutil.which(name) is None and not Path("/usr/bin", name).exists() and not Path("/usr/sbin", name).exists():
            unavailable(item.config, f"peer program {name} is not installed")
    if item.get_closest_marker("postgresql") and binaries() is None:
        unavailable(item.config, "no PostgreSQL server is installed")
    if item.get_closest_marker("real_data") and data_folder() is None:
        pytest.skip(NO_IMAGES)
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it aloud where real images were missing, also with --require-peers: they come with no machine."""
    skipped = sum(NO_IMAGES in str(each.longrepr) for each in terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.section("NOT TESTED", sep="!", red=True, bold=True)
        terminalreporter.line(f"{skipped} tests with real images were skipped: {NO_IMAGES}", red=True, bold=True)


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """A command that runs in the test's process sets up the log for it, on an output that is closed when the test ends."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(autouse=True, scope="session")
def _reset_connections_are_closed() -> Iterator[None]:
    """pynetdicom leaves a socket open whose connection the peer has reset: its shutdown() fails, and close() is not reached.

    Whether that happens is a matter of moments, and the warning of the unclosed socket would fail whatever test runs later.
    """

    def shut_down(association: AssociationSocket) -> None:
        if association.socket is not None:
            with contextlib.suppress(OSError):
                association.socket.shutdown(socket.SHUT_RDWR)
            association.socket.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AssociationSocket, "_shutdown_socket", shut_down)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; tests that use it bear the marker ``real_data``."""
    folder = data_folder()
    assert folder is not None, "mark the test with real_data"
    return folder
