"""A private Orthanc for tests and benchmarks: own storage, own ports, own configuration, gone when closed.

    with Orthanc(tmp_path / "orthanc", modalities={"NODE": ("DICOMNODE", "127.0.0.1", port)}) as orthanc:
        send_to(orthanc.host, orthanc.dicom_port, called_ae=orthanc.ae_title)
        assert orthanc.studies()

Nothing of the machine's own Orthanc (configuration, storage, service) is touched.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

Modality = tuple[str, str, int]  # AE title, host, port

PROGRAM = "/usr/sbin/Orthanc"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def orthanc_program() -> str | None:
    """Path of the Orthanc executable, or None where it is not installed."""
    return PROGRAM if Path(PROGRAM).exists() else shutil.which("Orthanc")


def free_ports(count: int) -> list[int]:
    """Ports free a moment ago; all are held open together so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


class OrthancFailed(RuntimeError):
    """Orthanc did not start, ended early or answered an error; the message carries the end of its log."""


class Orthanc:
    """One Orthanc process on 127.0.0.1 with a private configuration.

    Parameters
    ----------
    directory:
        Where configuration, storage and log go; made if missing. Kept after `close`, so a second
        instance on the same folder sees the same archive.
    modalities:
        Name -> (AE title, host, port): the peers Orthanc may query, move to and store to.
    settings:
        Further Orthanc configuration keys, taken over as they are (they win).
    dicom_port, http_port:
        Fixed ports, for a restart at the same place; free ones by default.
    plugins:
        Shared libraries to load, e.g. ``[DICOMWEB_PLUGIN]``.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        directory: Path,
        *,
        ae_title: str = "ORTHANC",
        modalities: Mapping[str, Modality] | None = None,
        settings: Mapping[str, Any] | None = None,
        dicom_port: int | None = None,
        http_port: int | None = None,
        plugins: Sequence[Path] = (),
        start_timeout: float = 30.0,
    ) -> None:
        self.directory = directory
        self.storage = directory / "storage"
        self.log = directory / "orthanc.log"
        self.ae_title = ae_title
        self._modalities = dict(modalities or {})
        self._settings = dict(settings or {})
        self._plugins = [str(p) for p in plugins]
        self._fixed = (dicom_port, http_port)
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self.dicom_port = self.http_port = 0
        self.client = httpx.Client(timeout=60.0, trust_env=False)
        self.start()

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start (again, on the same ports after a `stop`), and wait until REST and DICOM ports answer."""
        program = orthanc_program()
        if program is None:
            raise OrthancFailed("Orthanc is not installed (Debian package: orthanc)")
        self.storage.mkdir(parents=True, exist_ok=True)
        known = (self._fixed[0] or self.dicom_port, self._fixed[1] or self.http_port)
        for attempt in range(3):
            spare = free_ports(2)
            self.dicom_port, self.http_port = known[0] or spare[0], known[1] or spare[1]
            self._launch(program)
            try:
                self._await_ready()
                return
            except OrthancFailed:
                self.stop(signal.SIGKILL)
                if attempt == 2 or all(known):
                    raise

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End the process; storage and configuration stay for a later `start`."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(with_signal)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        self.stop()
        self.client.close()

    def __enter__(self) -> Orthanc:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id, for measuring CPU time and memory."""
        if self._process is None:
            raise OrthancFailed("Orthanc is not running")
        return self._process.pid

    def configuration(self) -> dict[str, Any]:
        """What the configuration file holds: Orthanc's defaults but for names, ports, folders and access."""
        return {
            "Name": self.ae_title,
            "StorageDirectory": str(self.storage),
            "IndexDirectory": str(self.storage),
            "Plugins": self._plugins,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": False,
            "DicomCheckModalityHost": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {name: list(modality) for name, modality in self._modalities.items()},
            **self._settings,
        }

    def _launch(self, program: str) -> None:
        path = self.directory / "orthanc.json"
        path.write_text(json.dumps(self.configuration(), indent=2))
        with self.log.open("ab") as log:
            # Its own session: an interrupt at the terminal reaches the test first, which then stops Orthanc.
            self._process = subprocess.Popen([program, str(path)], stdout=log, stderr=log, cwd=self.directory, start_new_session=True)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not (self._answers_http() and self._answers_dicom()):
            if self._process is None or self._process.poll() is not None:
                raise OrthancFailed(f"Orthanc ended while starting:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise OrthancFailed(f"Orthanc was not ready within {self._start_timeout:.0f} s:\n{self._log_tail()}")
            time.sleep(0.02)

    def _answers_http(self) -> bool:
        try:
            return self.client.get(f"{self.url}/system", timeout=2.0).is_success
        except httpx.TransportError:
            return False

    def _answers_dicom(self) -> bool:
        try:
            socket.create_connection((self.host, self.dicom_port), timeout=2.0).close()
        except OSError:
            return False
        return True

    def _log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # -- REST ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    def get(self, path: str) -> Any:
        return self._checked(self.client.get(self.url + path)).json()

    def post(self, path: str, body: Any = None, *, raw: bytes | str | None = None) -> Any:
        if raw is not None:
            return self._checked(self.client.post(self.url + path, content=raw)).json()
        return self._checked(self.client.post(self.url + path, json={} if body is None else body)).json()

    def delete(self, path: str) -> None:
        self._checked(self.client.delete(self.url + path))

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if not response.is_success:
            raise OrthancFailed(f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text[:300]}")
        return response

    def statistics(self) -> dict[str, Any]:
        """Counts and disk use: CountStudies, CountSeries, CountInstances, TotalDiskSize, ..."""
        result: dict[str, Any] = self.get("/statistics")
        return result

    def studies(self) -> list[dict[str, Any]]:
        """All studies, with MainDicomTags, PatientMainDicomTags and Series."""
        result: list[dict[str, Any]] = self.get("/studies?expand")
        return result

    def series(self, study_id: str | None = None) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get(f"/studies/{study_id}/series" if study_id else "/series?expand")
        return result

    def instances(self, study_id: str | None = None) -> list[dict[str, Any]]:
        """Instances (of one study by Orthanc's id), with MainDicomTags such as SOPInstanceUID."""
        result: list[dict[str, Any]] = self.get(f"/studies/{study_id}/instances" if study_id else "/instances?expand")
        return result

    def lookup(self, uid: str) -> list[str]:
        """Orthanc ids of whatever bears this Study, Series or SOP Instance UID."""
        return [found["ID"] for found in self.post("/tools/lookup", raw=uid)]

    def instance_bytes(self, instance_id: str) -> bytes:
        """The Part 10 file as Orthanc stored it."""
        return self._checked(self.client.get(f"{self.url}/instances/{instance_id}/file")).content

    def tags(self, instance_id: str) -> dict[str, Any]:
        """All attributes by keyword, sequences nested."""
        result: dict[str, Any] = self.get(f"/instances/{instance_id}/simplified-tags")
        return result

    def upload(self, part10: bytes) -> str:
        """Put a Part 10 file in by REST; answers Orthanc's instance id."""
        result: str = self.post("/instances", raw=part10)["ID"]
        return result

    # -- Orthanc as SCU -----------------------------------------------------------------------

    def add_modality(self, name: str, ae_title: str, port: int, host: str = "127.0.0.1", **more: Any) -> None:
        """Register a peer while running (kept until the process ends)."""
        self._modalities[name] = (ae_title, host, port)
        self._checked(self.client.put(f"{self.url}/modalities/{name}", json={"AET": ae_title, "Host": host, "Port": port, **more}))

    def echo(self, modality: str) -> bool:
        """C-ECHO from Orthanc to the peer."""
        return self.client.post(f"{self.url}/modalities/{modality}/echo", json={}).is_success

    def store(self, modality: str, resources: Sequence[str] | str) -> dict[str, Any]:
        """C-STORE from Orthanc to the peer: Orthanc ids of instances, series or studies."""
        ids = [resources] if isinstance(resources, str) else list(resources)
        result: dict[str, Any] = self.post(f"/modalities/{modality}/store", {"Resources": ids, "Synchronous": True})
        return result

    def wait_for(self, condition: Callable[[Orthanc], bool], timeout: float = 30.0) -> None:
        """Wait until `condition(self)` holds, or raise OrthancFailed."""
        deadline = time.monotonic() + timeout
        while not condition(self):
            if time.monotonic() > deadline:
                raise OrthancFailed(f"condition not met within {timeout:.0f} s; log:\n{self._log_tail()}")
            time.sleep(0.02)
