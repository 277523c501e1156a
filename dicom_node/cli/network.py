"""``echo`` and ``send``: the node's own SCU at the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.cli import output
from dicom_node.cli.common import command, with_json
from dicom_node.config import Config, Peer, find_file, load
from dicom_node.errors import CommandFailed, UsageError

if TYPE_CHECKING:
    from dicom_node.dimse.scu import StoreItem


def add(commands: Any) -> None:
    echo = command(
        commands,
        "echo",
        "send C-ECHO to a peer, and name the step that fails",
        example="dicom-node echo pacs\n  dicom-node echo 127.0.0.1:11112 --called DICOM_NODE",
    )
    _target(echo)
    echo.set_defaults(run=_echo)
    send = command(
        commands,
        "send",
        "send DICOM files by C-STORE",
        description="Send files, or all files below folders, exactly as they are: each in its own transfer syntax.",
        example="dicom-node send 127.0.0.1:11112 --called DICOM_NODE ./study",
    )
    _target(send)
    send.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="DICOM file, or folder of such")
    with_json(send)
    send.set_defaults(run=_send)


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="PEER", help="name of a configured [[peer]], or HOST:PORT")
    parser.add_argument("--called", metavar="AE", help="called AE title (default: the peer's, or ANY-SCP)")
    parser.add_argument("--calling", metavar="AE", help="calling AE title (default: the node's)")


def _peer(arguments: argparse.Namespace) -> tuple[Config, Peer]:
    file = find_file(arguments.config)
    config = load(file) if file.exists() or arguments.config else Config()
    host, colon, port = arguments.target.rpartition(":")
    if colon and port.isdigit():
        peer = Peer(name="target", ae_title=arguments.called or "ANY-SCP", host=host.strip("[]"), port=int(port))
    else:
        peer = config.peer_named(arguments.target)
        if peer.host is None:
            raise UsageError(f"the peer '{peer.name}' has no host and port")
        peer = peer.model_copy(update={"ae_title": arguments.called or peer.ae_title})
    if arguments.calling:
        config = config.model_copy(update={"node": config.node.model_copy(update={"ae_title": arguments.calling})})
    return config, peer


def _echo(arguments: argparse.Namespace) -> None:
    from dicom_node.checks import check_peer

    config, peer = _peer(arguments)
    result = check_peer(config, peer)
    if not result.ok:
        raise CommandFailed(f"echo to {peer.host}:{peer.port} failed at {result.detail}")
    output.line(result.detail)


def _send(arguments: argparse.Namespace) -> int:
    from dicom_node.sending import send_files, store_items

    config, peer = _peer(arguments)
    items, skipped = store_items(arguments.paths)
    for path in skipped:
        output.note(f"skipped, no DICOM file: {path}")
    if not items:
        raise CommandFailed("there is no DICOM file to send")
    answers = send_files(config, peer, items)
    refused = [(item, answer) for item, answer in answers if not answer.ok]
    if arguments.json:
        output.data([_row(item, answer.status, answer.comment) for item, answer in answers])
    else:
        for item, answer in refused:
            output.line(f"{item.sop_instance_uid}\t{answer.status:04X}\t{answer.comment}")
        output.line(f"{len(answers) - len(refused)} of {len(answers)} instances stored by {peer.ae_title} at {peer.host}:{peer.port}")
    return 1 if refused else 0


def _row(item: StoreItem, status: int, comment: str) -> dict[str, Any]:
    return {"sop_instance_uid": item.sop_instance_uid, "status": f"{status:04X}", "comment": comment}
