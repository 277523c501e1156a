"""What an address names (PS3.18 8.3.1, 10.1): checked UIDs, the instances below them, and addresses for answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from dicom_node.node import Node
from dicom_node.web.dicomweb.errors import BadRequest, Gone, NoSuchResource
from storage.archive import StoredInstance
from storage.errors import NotFound
from storage.headers import is_uid

PREFIX: Final = "/dicom-web"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_HOST: Final = re.compile(r"[0-9A-Za-z.\-_]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


@dataclass(frozen=True)
class Resource:
    """A study, one of its series or an instance; what is not named is empty."""

    study: str = ""
    series: str = ""
    instance: str = ""

    @property
    def path(self) -> str:
        """Its address below the service's."""
        named = (("studies", self.study), ("series", self.series), ("instances", self.instance))
        return "".join(f"/{kind}/{uid}" for kind, uid in named if uid)


def checked_uid(uid: str, what: str) -> str:
    """The UID itself; BadRequest for what the archive takes for none. What breaks form harmlessly can be stored, and so be asked for."""
    if not is_uid(uid):
        raise BadRequest(f"{what} in the address is no UID")
    return uid


def resource_of(request: Request) -> Resource:
    """What the request's address names; raises BadRequest."""
    names = {"study": "Study Instance UID", "series": "Series Instance UID", "instance": "SOP Instance UID"}
    return Resource(**{key: checked_uid(request.path_params[key], name) for key, name in names.items() if key in request.path_params})


def service_url(request: Request) -> str:
    """The address of the service as the client wrote it, without a slash at its end; raises BadRequest for a Host that is none."""
    host = request.headers.get("host") or request.url.netloc
    if not _HOST.fullmatch(host):
        raise BadRequest("Host is no host")
    server = request.scope.get("server")
    if server and host in (*_LOOPBACK, server[0]) and server[1] not in (None, 80, 443):
        host = f"{host}:{server[1]}"  # some clients leave the port out, and then want to come back
    return f"{request.url.scheme}://{host}{PREFIX}"


def stored_instances(node: Node, resource: Resource) -> list[StoredInstance]:
    """The instances of a resource in the order of their numbers, damaged ones too; NoSuchResource where there are none."""
    if resource.instance:
        try:
            stored = node.archive.open_instance(resource.instance)
        except NotFound:
            raise NoSuchResource("no such instance") from None
        if stored.study_uid != resource.study or (resource.series and stored.series_uid != resource.series):
            raise NoSuchResource("no such instance in this series")
        return [stored]
    found = node.archive.instances(resource.study, resource.series or None)
    if not found:
        raise NoSuchResource("no such series in this study" if resource.series else "no such study")
    return found


def intact(instances: Sequence[StoredInstance]) -> list[StoredInstance]:
    """Those whose bytes are sound; Gone where none is."""
    sound = [each for each in instances if not each.damaged]
    if not sound:
        raise Gone("what is stored here is damaged: dicom-node check says more")
    return sound


def entity_tag(instances: Sequence[StoredInstance], variant: str = "") -> str:
    """An ETag that changes with any byte of what is stored, and with what is made of it."""
    if len(instances) == 1:
        return f'"{instances[0].digest[:32]}{variant}"'
    digest = hashlib.sha256("".join(each.digest for each in instances).encode()).hexdigest()
    return f'"{digest[:32]}{variant}"'
