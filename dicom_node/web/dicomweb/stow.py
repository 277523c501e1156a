"""STOW-RS (PS3.18 10.5): instances in, each with an answer of its own, durable before it is given.

A request is an association row of its own, so a study that is being sent this way is not complete before the request has ended. Its thread
reads the body from the socket; one without a length, or compressed, comes through the event loop, and at most `Pipe.CAPACITY` of it wait.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicom_node.dimse.association import AssociationContext
from dicom_node.dimse.contexts import TRANSFER_SYNTAXES, storage_classes
from dicom_node.dimse.services.store import COERCION_OF_DATA_ELEMENTS, CONFLICT
from dicom_node.node import LeasedAssociations, Node
from dicom_node.web.authentication import principal_of
from dicom_node.web.dicomweb import stow_answer
from dicom_node.web.dicomweb.accept import Offer, accepted, choose
from dicom_node.web.dicomweb.errors import HEADERS, RETRY_AFTER, BadRequest, Busy, SlowClient, Unsupported, WebError
from dicom_node.web.dicomweb.multipart_reader import MultipartError, checked_boundary, parse_media_type
from dicom_node.web.dicomweb.resources import PREFIX, resource_of, service_url
from dicom_node.web.dicomweb.stow_answer import DICOM_JSON, DICOM_XML, JSON, Stored
from dicom_node.web.dicomweb.upload import DICOM, IN_FLIGHT, Policy, Upload
from dicom_node.web.intake import taken
from dicom_node.web.limits import BodyLimits, body, drain
from storage import associations, audit
from storage.archive import IngestSession, Source
from storage.errors import IndexUnavailable

log = structlog.get_logger()

OFFERS: Final = (Offer(DICOM_JSON), Offer(JSON), Offer(DICOM_XML))


class Pipe:
    """Bytes from the event loop to one thread; the loop waits where the thread does not get on."""

    CAPACITY: Final = 4 << 20

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self._room = asyncio.Event()
        self._put = self._taken = 0
        self._full = False

    async def put(self, data: bytes) -> None:
        self._put += len(data)
        self._queue.put(data)
        while self._put - self._taken > self.CAPACITY:
            self._room.clear()
            self._full = True
            if self._put - self._taken > self.CAPACITY:
                await self._room.wait()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; with an error, the thread gets that raised."""
        self._queue.put(error)

    def __iter__(self) -> Iterator[bytes]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            self._taken += len(item)
            if self._full and self._put - self._taken <= self.CAPACITY // 2:
                self._full = False
                self._loop.call_soon_threadsafe(self._room.set)
            yield item


class Uploads:
    """What all STOW requests of a process share: threads, limits, association rows.

    `start` and `stop` keep the rows' leases; without them a request must end within its first lease.
    """

    def __init__(self, node: Node) -> None:
        web, dimse = node.config.web, node.config.dimse
        self.node = node
        self.hooks = LeasedAssociations(node)
        self.limits = BodyLimits.of(web)
        self.policy = Policy(
            storage_classes(dimse.extra_sop_classes),
            frozenset((*TRANSFER_SYNTAXES, *dimse.extra_transfer_syntaxes)),
            web.max_part_size,
            web.max_parts,
            CONFLICT if node.config.archive.conflict == "refuse" else COERCION_OF_DATA_ELEMENTS,
        )
        self._max = web.max_uploads
        self._busy = 0
        self._readers = ThreadPoolExecutor(web.max_uploads, thread_name_prefix="stow")
        self._commits = ThreadPoolExecutor(web.max_uploads * IN_FLIGHT, thread_name_prefix="stow-commit")

    def start(self) -> None:
        self.hooks.start()

    def stop(self) -> None:
        self._readers.shutdown()
        self._commits.shutdown()
        self.hooks.stop()

    async def store(self, request: Request) -> Response:
        """POST /studies and /studies/{study}."""
        offer = choose(accepted(request), OFFERS, "the answer to a store")
        study, service = resource_of(request).study, service_url(request)
        reading = _reading(request.headers.get("content-type", ""))
        if self._busy >= self._max:
            raise Busy("too many uploads at a time; come again")
        self._busy += 1
        try:
            results = await self._receive(request, study, reading)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except WebError as error:
            if not isinstance(error, SlowClient):  # which sends nothing that could be drained
                await drain(request)
            raise
        finally:
            self._busy -= 1
        if not results:
            raise BadRequest("the request holds no instance")
        status = stow_answer.http_status(results)
        answer = stow_answer.model(results, service)
        content = stow_answer.xml(answer) if offer.media_type == DICOM_XML else json.dumps(answer, separators=(",", ":")).encode()
        headers = {**HEADERS, "Cache-Control": "no-store", "Content-Type": offer.media_type, **(RETRY_AFTER if status == 503 else {})}
        return Response(content, status_code=status, headers=headers)

    async def _receive(self, request: Request, study: str, reading: Reading) -> list[Stored]:
        address = request.client.host if request.client else ""
        task = Task(self, principal_of(request).name, address, study)
        taken_over = await taken(request, self.limits)
        if taken_over is not None:
            work = self._begin(task, reading, taken_over)
            try:
                return await asyncio.shield(work)
            finally:
                taken_over.stop()
                await asyncio.wait((work,))
                taken_over.give_back()
        pipe = Pipe()
        work = self._begin(task, reading, pipe)
        pump = asyncio.ensure_future(_pump(request, self.limits, pipe))
        try:
            return await asyncio.shield(work)
        finally:
            pump.cancel()
            pipe.end(ClientDisconnect())
            await asyncio.wait((pump,))
            await asyncio.wait((work,))

    def _begin(self, task: Task, reading: Reading, pieces: Iterable[bytes]) -> asyncio.Future[list[Stored]]:
        """Let the request's thread read and store."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._readers, task.run, lambda upload: reading(upload, pieces), self._commits)


Reading = Callable[[Upload, Iterable[bytes]], list[Stored]]


def _reading(content_type: str) -> Reading:
    """How a body of this type is read; Unsupported and BadRequest where it cannot be."""
    try:
        kind, parameters = parse_media_type(content_type)
        if kind == DICOM:
            return lambda upload, pieces: upload.run_single(pieces)
        if kind != "multipart/related" or parameters.get("type", DICOM).lower() != DICOM:
            raise Unsupported(f'instances are taken as multipart/related; type="{DICOM}" or as {DICOM}')
        boundary = parameters.get("boundary", "")
        checked_boundary(boundary)
    except MultipartError as error:
        raise BadRequest(str(error)) from None
    return lambda upload, pieces: upload.run_multipart(pieces, boundary)


async def _pump(request: Request, limits: BodyLimits, pipe: Pipe) -> None:
    try:
        async for piece in body(request, limits):
            await pipe.put(piece)
    except Exception as error:  # noqa: BLE001 - whatever keeps the body from coming is the reading thread's to deal with
        pipe.end(error)
    else:
        pipe.end()


class Task:
    """One request in its thread: its association row, its sessions, its audit rows."""

    def __init__(self, uploads: Uploads, who: str, address: str, study: str) -> None:
        self._uploads = uploads
        self._node = uploads.node
        self._who = who
        self._study = study
        self._opening = threading.Lock()
        self._opened = False
        self._context = AssociationContext(
            uuid.uuid4().hex, who, self._node.config.node.ae_title, address, None, True, opened_at=self._node.clock()
        )

    def run(self, read: Callable[[Upload], list[Stored]], commits: ThreadPoolExecutor) -> list[Stored]:
        """Store what comes; the row is closed however that ends."""
        upload, ended = Upload(self._session, commits, self._uploads.policy), "lost"
        try:
            results = read(upload)
            ended = "released"
        finally:
            if self._opened:
                self._context.stored = upload.stored()
                self._uploads.hooks.closed(self._context, ended)
        self._record(results)
        return results

    def _session(self) -> IngestSession:
        context = self._context
        with self._opening:
            if not self._opened:
                names = (self._node.process, context.calling_ae, context.called_ae, context.address)
                associations.open_association(self._node.database, context.id, *names, now=self._node.clock())
                self._uploads.hooks.opened(context)
                self._opened = True
        source = (context.calling_ae, context.called_ae, context.address)
        return self._node.archive.session(Source(context.id, *source, process=self._node.process, study_uid=self._study))

    def _record(self, results: list[Stored]) -> None:
        stored = Counter(result.study for result in results if result.ok)
        try:
            with self._node.database.begin(durable=False) as connection:
                for study, count in stored.items():
                    detail = {"instances": count, "address": self._context.address, "association": self._context.id}
                    audit.record(connection, "study.stored", actor=self._who, study_uid=study, detail=detail, at=self._node.clock())
        except IndexUnavailable as error:
            log.warning("stow.not_audited", why=str(error))


def routes(uploads: Uploads) -> list[BaseRoute]:
    """The routes that store."""
    paths = (f"{PREFIX}/studies", f"{PREFIX}/studies/{{study}}")
    return [Route(path, uploads.store, methods=["POST"]) for path in paths]
