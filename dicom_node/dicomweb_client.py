"""Asking another archive over DICOMweb (PS3.18): studies by QIDO-RS, a study's instances by WADO-RS.

Nothing of an answer is believed for its size or its pace: what is read is bounded in bytes and, from connecting to the last byte, in time.
Redirects are not followed, since a token would go with them. An error says what was answered, never what was asked: that names a patient.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from dicom_node.web.dicomweb.multipart_reader import MultipartError, parse_media_type
from storage.headers import is_uid

PIECE: Final = 256 << 10
MAX_SEARCH: Final = 4 << 20  # bytes of a search's answer
MOST_STUDIES: Final = 200
LATE: Final = "it did not answer in time"
STUDY_JSON: Final = "application/dicom+json"
INSTANCES: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'


class DicomwebError(Exception):
    """The archive did not answer as it should; the text is one line, without what was asked."""


class DicomwebClient:
    """One archive.

    Parameters
    ----------
    root
        The base of its services, e.g. ``https://pacs.example/dicom-web``.
    token
        Sent as a bearer token; empty: none.
    ca
        Certificates that its own must lead to; None: those that the system trusts.
    connect, stall
        Seconds to connect within, and for which it may say nothing.
    """

    def __init__(self, root: str, *, token: str = "", ca: Path | None = None, connect: float = 10.0, stall: float = 60.0) -> None:
        self._root = urlsplit(root.rstrip("/"))
        self._token = token
        self._ca = ca
        self._connect = connect
        self._stall = stall

    def studies(self, asked: Mapping[str, str], fields: Sequence[str], *, within: float) -> list[dict[str, str]]:
        """Search for studies (PS3.18 10.6): of each the first value of its attributes, by tag (eight hexadecimal digits).

        Raises
        ------
        DicomwebError
        """
        query = urlencode([*asked.items(), *(("includefield", each) for each in fields), ("limit", str(MOST_STUDIES))], quote_via=quote)
        with self._get(f"/studies?{query}", STUDY_JSON, within, (200, 204)) as (answer, late):
            if answer.status == 204:
                return []
            body = answer.read(MAX_SEARCH + 1)
            if late.is_set():
                raise DicomwebError(LATE)
        if len(body) > MAX_SEARCH:
            raise DicomwebError(f"its answer to a search has more than {MAX_SEARCH} bytes")
        try:
            found = json.loads(body or b"[]")
        except (ValueError, RecursionError):
            raise DicomwebError("its answer to a search is no JSON") from None
        if not isinstance(found, list):
            raise DicomwebError("its answer to a search is no list of studies")
        return [{tag: _first(element) for tag, element in each.items()} for each in found if isinstance(each, dict)]

    @contextlib.contextmanager
    def instances(self, study_uid: str, *, within: float, most: int) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Retrieve a study (PS3.18 10.4): the boundary of the multipart body, and the body in pieces.

        Parameters
        ----------
        most
            Bytes of the body; DicomwebError where it has more.

        Raises
        ------
        DicomwebError
        """
        if not is_uid(study_uid):
            raise DicomwebError("it named a study by what is no UID")
        with self._get(f"/studies/{study_uid}", INSTANCES, within, (200,)) as (answer, late):
            try:
                kind, parameters = parse_media_type(answer.headers.get("Content-Type") or "")
            except MultipartError:
                kind, parameters = "", {}
            if kind != "multipart/related" or not parameters.get("boundary"):
                raise DicomwebError("its answer to a retrieval is not multipart/related")
            yield parameters["boundary"], _pieces(answer, most, late)

    @contextlib.contextmanager
    def _get(
        self, path: str, accept: str, within: float, wanted: Sequence[int]
    ) -> Iterator[tuple[http.client.HTTPResponse, threading.Event]]:
        """An answer, and whether its time was up: what was read until then has no end."""
        headers = {"Accept": accept, "Accept-Encoding": "identity", "Connection": "close", "User-Agent": "dicom-node"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if within <= 0:
            raise DicomwebError(LATE)
        connection = self._open(min(self._connect, within))
        late = threading.Event()
        try:
            connection.connect()
            watched = _Watched(connection.sock, within, late)
            connection.sock.settimeout(self._stall)
            with watched, contextlib.closing(self._asked(connection, self._root.path + path, headers)) as answer:
                if answer.status not in wanted:
                    raise DicomwebError(f"it answered {answer.status}")
                if (answer.headers.get("Content-Encoding") or "identity").strip().lower() != "identity":
                    raise DicomwebError("its answer is compressed, which was not asked for")
                yield answer, late
        except (OSError, http.client.HTTPException) as error:
            raise DicomwebError(LATE if late.is_set() else _why(error)) from None
        except DicomwebError as error:
            raise (DicomwebError(LATE) if late.is_set() else error) from None
        finally:
            connection.close()

    def _open(self, timeout: float) -> http.client.HTTPConnection:
        host = self._root.hostname or ""
        if self._root.scheme == "https":
            context = ssl.create_default_context(cafile=str(self._ca) if self._ca else None)
            return http.client.HTTPSConnection(host, self._root.port, timeout=timeout, context=context)
        return http.client.HTTPConnection(host, self._root.port, timeout=timeout)

    @staticmethod
    def _asked(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        connection.request("GET", path, headers=dict(headers))
        return connection.getresponse()


class _Watched:
    """Ends a connection when its time is up, whatever its thread waits for."""

    def __init__(self, sock: socket.socket, seconds: float, late: threading.Event) -> None:
        self._sock = sock
        self._late = late
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def _cut(self) -> None:
        self._late.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # beneath TLS: its own shutdown would change what the reader holds

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        self._timer.join()


def _pieces(answer: http.client.HTTPResponse, most: int, late: threading.Event) -> Iterator[bytes]:
    size = 0
    while piece := answer.read1(PIECE):
        size += len(piece)
        if size > most:
            raise DicomwebError(f"its answer has more than {most} bytes")
        yield piece
    if late.is_set():
        raise DicomwebError(LATE)


def _first(element: Any) -> str:
    """The first value of an attribute in the DICOM JSON model (PS3.18 F.2), as text."""
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    return str(value) if isinstance(value, str | int | float) else ""


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it says nothing"
    if isinstance(error, OSError):
        return f"no connection: {error.strerror or type(error).__name__}"
    return f"its answer breaks off or cannot be read ({type(error).__name__})"
