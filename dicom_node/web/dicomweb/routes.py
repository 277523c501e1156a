"""Every address under /dicom-web."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from dicom_node.node import Node
from dicom_node.transcode import Transcoder
from dicom_node.web.dicomweb.bulkdata import bulkdata
from dicom_node.web.dicomweb.frames import frames
from dicom_node.web.dicomweb.metadata import metadata
from dicom_node.web.dicomweb.qido import searcher
from dicom_node.web.dicomweb.rendered import rendered
from dicom_node.web.dicomweb.resources import PREFIX
from dicom_node.web.dicomweb.wado import instances
from storage.attributes import Level

STUDIES = f"{PREFIX}/studies"
STUDY = f"{STUDIES}/{{study}}"
SERIES = f"{STUDY}/series/{{series}}"
INSTANCE = f"{SERIES}/instances/{{instance}}"


def routes(node: Node, transcoder: Transcoder) -> list[BaseRoute]:
    """The routes of search and retrieve, for the web application, which closes the transcoder."""
    return [*_search(node), *_retrieve(node, transcoder)]


def _search(node: Node) -> list[BaseRoute]:
    studies, series, instances = (searcher(node, level) for level in (Level.STUDY, Level.SERIES, Level.IMAGE))
    return [
        Route(STUDIES, studies),
        Route(f"{PREFIX}/series", series),
        Route(f"{PREFIX}/instances", instances),
        Route(f"{STUDY}/series", series),
        Route(f"{STUDY}/instances", instances),
        Route(f"{SERIES}/instances", instances),
    ]


def _retrieve(node: Node, transcoder: Transcoder) -> list[BaseRoute]:
    whole, header = instances(node, transcoder), metadata(node)
    picture, thumbnail = rendered(node, transcoder), rendered(node, transcoder, thumbnail=True)
    levels = (STUDY, SERIES, INSTANCE)
    shown = (*levels, f"{INSTANCE}/frames/{{frames}}")
    return [
        *(Route(level, whole) for level in levels),
        *(Route(f"{level}/metadata", header) for level in levels),
        *(Route(f"{level}/rendered", picture) for level in shown),
        *(Route(f"{level}/thumbnail", thumbnail) for level in shown),
        Route(f"{INSTANCE}/frames/{{frames}}", frames(node, transcoder)),
        Route(f"{INSTANCE}/bulkdata/{{path:path}}", bulkdata(node, transcoder)),
    ]
