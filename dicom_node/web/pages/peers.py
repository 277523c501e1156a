"""Peers: how deliveries to each stand, what it takes, and whether it answers."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from dicom_node.accounts import OPERATE, READ
from dicom_node.checks import Checked, check_peer
from dicom_node.errors import ConfigurationError
from dicom_node.node import Node
from dicom_node.web.dicomweb.errors import Busy, NoSuchResource
from dicom_node.web.page_route import PageRoute
from dicom_node.web.pages.site import page
from storage import job_pages, peer_state

PATH: Final = "/peers"
ECHOES_AT_ONCE: Final = 4


def routes(node: Node) -> list[BaseRoute]:
    """The addresses of peers."""
    peers = _Peers(node)
    return [PageRoute(PATH, peers.list, right=READ), PageRoute(f"{PATH}/{{peer}}/echo", peers.echo, right=OPERATE, methods=["POST"])]


class _Peers:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._echoes = asyncio.Semaphore(ECHOES_AT_ONCE)

    def list(self, request: Request) -> Response:
        """All of them, those in trouble first."""
        return self._page(request)

    async def echo(self, request: Request) -> Response:
        """Associate with a peer and echo; which step failed, where one did."""
        try:
            peer = self._node.config.peer_named(request.path_params["peer"])
        except ConfigurationError:
            raise NoSuchResource("no such peer") from None
        if peer.host is None:
            raise NoSuchResource(f"the peer '{peer.name}' has no host and port: it calls, and is not called")
        if self._echoes.locked():
            raise Busy("other peers are being echoed; try again in a moment")
        async with self._echoes:
            result = await run_in_threadpool(check_peer, self._node.config, peer)
        return await run_in_threadpool(self._page, request, {peer.name: result})

    def _page(self, request: Request, echoed: dict[str, Checked] | None = None) -> Response:
        with self._node.database.read() as connection:
            states = peer_state.by_peer(connection)
            counts = job_pages.counts(connection)
        nothing = peer_state.PeerState()
        rows: list[tuple[Any, peer_state.PeerState]] = [(each, states.get(each.name, nothing)) for each in self._node.config.peer]
        rows.sort(key=lambda row: (-row[1].failed, -row[1].waiting, row[0].name))
        failed = counts["FAILED"]
        return page(request, "peers.html", rows=rows, echoed=echoed or {}, failed=failed, node=self._node.config.node)
