"""``viewer install | status | remove``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, with_json
from dicom_node.config import Config
from dicom_node.errors import EXIT_FAILED, EXIT_OK


def add(commands: Any) -> None:
    viewers = group(commands, "viewer", "the viewer that the node serves at /viewer: install, status, remove")
    install = command(
        viewers,
        "install",
        "fetch the viewer by npm, verify it and have the node serve it",
        description="Fetch OHIF as its makers built it, of one version whose bytes are known, and put it where the web role serves it:\n"
        "at /viewer, at once. Where there is no npm, fetch the package elsewhere and give it with --from.",
        example="dicom-node viewer install --from ohif-app-3.13.2.tgz",
    )
    install.add_argument("--from", dest="tarball", type=Path, metavar="TARBALL", help="the package, fetched before by npm pack")
    install.add_argument("--into", type=Path, metavar="FOLDER", help="another folder than the node's own; DICOM_NODE_VIEWER names it then")
    install.set_defaults(run=_install)
    status = command(viewers, "status", "whether the viewer is installed, and where it answers")
    with_json(status)
    status.set_defaults(run=_status)
    remove = command(viewers, "remove", "remove the viewer")
    remove.set_defaults(run=_remove)


def _address(config: Config) -> str:
    from dicom_node.viewer import BASE

    host = "127.0.0.1" if config.web.host in ("0.0.0.0", "::") else config.web.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.web.port}{BASE}/"


def _install(arguments: argparse.Namespace) -> None:
    from dicom_node.viewer.installation import BROUGHT, install, root_of

    if arguments.into is not None:
        done = install(arguments.into.absolute(), arguments.tarball)
        output.line(f"OHIF {done.version} is in {done.folder}; a node with {BROUGHT}={done.folder.parent} in its environment serves it")
        return
    config = configuration(arguments)
    done = install(root_of(config), arguments.tarball)
    output.line(f"OHIF {done.version} is in {done.folder}; a node that runs serves it now: {_address(config)}")


def _status(arguments: argparse.Namespace) -> int:
    from dicom_node.viewer import INSTALL
    from dicom_node.viewer.installation import installed

    config = configuration(arguments)
    found = installed(config)
    if arguments.json:
        shown = {"version": found.version, "folder": str(found.folder), "address": _address(config)} if found else None
        output.data({"installed": shown})
    else:
        output.line(f"OHIF {found.version} in {found.folder}, at {_address(config)}" if found else f"not installed; {INSTALL}")
    return EXIT_OK if found else EXIT_FAILED


def _remove(arguments: argparse.Namespace) -> None:
    from dicom_node.viewer.installation import installed, remove

    config = configuration(arguments)
    output.line("the viewer is removed" if remove(config) else "there was no viewer of the node's own")
    if left := installed(config):
        output.line(f"OHIF {left.version} in {left.folder}, which came with the node, is still served")
