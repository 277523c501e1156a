"""DICOMweb, health and metrics over HTTP (Starlette on uvicorn). Loopback only unless the configuration says otherwise.

/healthz     the process answers
/readyz      index and archive can be used; 503 with the reason otherwise
/metrics     Prometheus text; no patient identity; for who may read
/api         studies, jobs, rules, peers and releases as JSON, and what a person decides about them
/viewer      the viewer, where it is installed
/static      style and script of the pages
/dicom-web   search, retrieve and store (PS3.18); /wado for older viewers; all of it described in openapi.json
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicom_node.errors import ConfigurationError
from dicom_node.node import Node
from dicom_node.transcode import ChildrenBusy, Transcoder
from dicom_node.web import conformance, openapi, viewer
from dicom_node.web.api.routes import routes as api_routes
from dicom_node.web.authentication import Gate
from dicom_node.web.channel import MAX_MESSAGE, ChannelProtocol
from dicom_node.web.dicomweb import delete, event_channel, stow, subscriptions, wado_uri, workitems
from dicom_node.web.dicomweb.errors import WebError, failed
from dicom_node.web.dicomweb.routes import routes as dicomweb_routes
from dicom_node.web.dicomweb.stow import Uploads
from dicom_node.web.grouped import GroupedWrites
from dicom_node.web.identities import Identities
from dicom_node.web.limits import PLACE_WAIT, Crowd, DeadlineProtocol
from dicom_node.web.metrics import CONTENT_TYPE, render
from dicom_node.web.pages import account, accounts, events, jobs, models, peers, preferences, sign_in, site, study, system, worklist
from dicom_node.web.pages.errors import refused
from storage.errors import StorageError

SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'"}


def create_app(node: Node, uploads: Uploads | None = None, transcoder: Transcoder | None = None) -> Starlette:
    """The web application of a node; ``uploads`` keep the leases of what is being stored, once they are started.

    ``transcoder`` starts children when it is needed; whoever gives it closes it.
    """

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=SECURITY_HEADERS)

    async def readyz(request: Request) -> Response:
        problems = await run_in_threadpool(why_not_ready, node)
        status = "not ready" if problems else "ready"
        return JSONResponse({"status": status, "problems": problems}, status_code=503 if problems else 200, headers=SECURITY_HEADERS)

    async def metrics(request: Request) -> Response:
        text = await run_in_threadpool(render, node)
        return Response(text, media_type=CONTENT_TYPE, headers=SECURITY_HEADERS)

    web = node.config.web
    identities = Identities(node.database, web.session_idle, web.session_lifetime)
    uploads = uploads or Uploads(node)
    writes = GroupedWrites(node.database, after=lambda: node.ring(event_channel.BELL))
    health = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    transcoder = transcoder or Transcoder(wait=PLACE_WAIT)
    retrieve = [*dicomweb_routes(node, transcoder), *wado_uri.routes(node, transcoder)]
    described = [openapi.route(node), conformance.route(node)]
    routes = [
        *health,
        *retrieve,
        *stow.routes(uploads),
        *delete.routes(node),
        *workitems.routes(node, writes),
        *subscriptions.routes(node),
        *event_channel.routes(node, writes, identities),
        *api_routes(node),
        *viewer.routes(node),
        *site.routes(),
        *jobs.routes(node),
        *peers.routes(node),
        *models.routes(node),
        *system.routes(node),
        *preferences.routes(node.database, identities),
        *sign_in.routes(node.database, web, identities),
        *account.routes(node),
        *accounts.routes(node),
        *worklist.routes(node),
        *study.routes(node, transcoder),
        *events.routes(node, identities),
        *described,
    ]
    crowd = Middleware(Crowd, most=node.config.web.max_connections)
    gate = Middleware(Gate, settings=web, database=node.database, identities=identities)
    handlers = {**dict.fromkeys((WebError, ChildrenBusy, HTTPException, StorageError), refused), Exception: failed}
    return Starlette(routes=routes, middleware=[crowd, gate], exception_handlers=handlers)


def why_not_ready(node: Node) -> list[str]:
    """What keeps the node from serving, in sentences."""
    problems = []
    try:
        with node.database.read() as connection:
            connection.exec_driver_sql("SELECT 1")
    except StorageError as error:
        problems.append(f"database: {error}")
    try:
        free = node.archive.free_bytes()
        if free < node.config.archive.min_free:
            problems.append(f"archive: {free} bytes are free, and storing stops below {node.config.archive.min_free}")
    except (OSError, StorageError) as error:
        problems.append(f"archive: {error}")
    return problems


def serve(node: Node, wait: Callable[[], None], ready: Callable[[str], None]) -> None:
    """Serve until ``wait`` returns."""
    config = node.config.web
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listening = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        where = f"'web.host' = '{config.host}', 'web.port' = {config.port}"
        raise ConfigurationError(f"{where}: nothing can be served there: {os.strerror(error.errno or 0)}") from error
    with listening as listener:
        uploads, transcoder = Uploads(node), Transcoder(wait=PLACE_WAIT)
        server = uvicorn.Server(settings(node, uploads, transcoder))
        uploads.start()
        event_channel.announce(node)
        # In a thread of its own uvicorn leaves the signals to the role.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
        thread.start()
        ready(f"web ready: http://{config.host}:{listener.getsockname()[1]}")
        wait()
        server.should_exit = True
        thread.join()
        uploads.stop()
        transcoder.close()


def settings(node: Node, uploads: Uploads, transcoder: Transcoder | None = None) -> uvicorn.Config:
    """How uvicorn serves the application: quiet, on HTTP/1.1 with deadlines, and done soon after it is told to stop."""
    return uvicorn.Config(
        create_app(node, uploads, transcoder),
        http=DeadlineProtocol,
        ws=ChannelProtocol,
        ws_per_message_deflate=False,
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=None,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=bool(node.config.web.proxies),
        forwarded_allow_ips=list(node.config.web.proxies),
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=round(node.config.dimse.stop_deadline),
    )
