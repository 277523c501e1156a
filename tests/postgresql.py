"""A private PostgreSQL cluster for tests and benchmarks: its own directory, a unix socket, gone afterwards."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


def binaries() -> Path | None:
    """Find the folder of initdb and postgres; None where no server is installed."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    needed = ("initdb", "postgres", "pg_isready")
    return next((folder for folder in folders if all((folder / name).exists() for name in needed)), None)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG: a killed test run leaves no server behind


def _account() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def private_cluster(**settings: str) -> Iterator[str]:
    """Run a cluster and yield the URL of its ``postgres`` database."""
    folder = binaries()
    if folder is None:
        raise FileNotFoundError("no PostgreSQL server is installed")
    account = _account()  # the server refuses to run as root
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    if account is not None:
        shutil.chown(home, account)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(home)}
    try:
        subprocess.run(
            [folder / "initdb", "-D", home / "data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8"],
            check=True, capture_output=True, env=environment, user=account, cwd=home,
        )  # fmt: skip
        options = [word for name, value in {**SETTINGS, **settings}.items() for word in ("-c", f"{name}={value}")]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(
                [folder / "postgres", "-D", home / "data", "-k", home, *options],
                stdout=log, stderr=log, env=environment, user=account, cwd=home, preexec_fn=_die_with_parent,
            )  # fmt: skip
        try:
            _await_ready(folder, home, server)
            yield f"postgresql+psycopg://postgres@/postgres?host={home}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _await_ready(folder: Path, home: Path, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start: {(home / 'log').read_text()}")
        if subprocess.run([folder / "pg_isready", "-q", "-h", home, "-t", "1"]).returncode == 0:
            return
    raise RuntimeError("PostgreSQL did not become ready")
