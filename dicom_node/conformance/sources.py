"""Where the statement's facts come from: the services and routes that a node registers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.routing import BaseRoute

from dicom_node.config import Config, DatabaseTable
from dicom_node.node import LeasedAssociations, Node, build_server, open_node, prepare
from dicom_node.web.page_route import PageRoute


@dataclass(frozen=True)
class Registered:
    """What a node serves: SOP class > service, and the routes of its web application but for its pages."""

    config: Config
    services: Mapping[str, Any]
    routes: Sequence[BaseRoute]


def registered(node: Node, routes: Sequence[BaseRoute]) -> Registered:
    """What a node that is open registers."""
    interface = [route for route in routes if not isinstance(route, PageRoute)]
    return Registered(node.config, build_server(node, LeasedAssociations(node)).services, interface)


@contextlib.contextmanager
def registered_by(config: Config) -> Iterator[Registered]:
    """What a node of this configuration would register; its archive, index and peers are not touched."""
    from dicom_node.web.app import create_app

    with tempfile.TemporaryDirectory(prefix="dicom-node-conformance-") as folder:
        own = {"node": config.node.model_copy(update={"data_dir": Path(folder)}), "database": DatabaseTable()}
        empty = config.model_copy(update=own)
        prepare(empty)
        with open_node(empty, "conformance") as node:
            found = registered(node, create_app(node).routes)
            yield Registered(config, found.services, found.routes)
