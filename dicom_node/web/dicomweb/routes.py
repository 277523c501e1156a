"""Every address under /dicom-web."""

from __future__ import annotations

from starlette.routing import BaseRoute

from dicom_node.node import Node

PREFIX = "/dicom-web"


def routes(node: Node) -> list[BaseRoute]:
    """The routes of DICOMweb, for the web application."""
    return []
