"""``peer``: the peers that are configured, and what they take."""

from __future__ import annotations

import argparse
from typing import Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, with_json
from dicom_node.config import Peer
from dicom_node.errors import CommandFailed, UsageError


def add(commands: Any) -> None:
    peers = group(commands, "peer", "configured peers and what they take")
    listing = command(peers, "list", "list the configured peers and their profiles", example="dicom-node peer list --json")
    with_json(listing)
    listing.set_defaults(run=_list)
    probing = command(
        peers,
        "probe",
        "send test objects of every kind to a peer and write its profile",
        description="Send a study of a test patient (PROBE^DICOM NODE TEST) with results of every kind, ask for storage commitment, query\n"
        "them back, and print what the peer accepts as a [[peer]] table. The test study stays at the peer; its UID is printed.",
        example="dicom-node peer probe pacs > pacs.toml",
    )
    probing.add_argument("peer", metavar="PEER", help="name of a configured [[peer]]")
    probing.add_argument(
        "--wait", type=float, default=10.0, metavar="SECONDS", help="how long a commitment report is awaited (default: 10)"
    )
    with_json(probing)
    probing.set_defaults(run=_probe)


def _list(arguments: argparse.Namespace) -> None:
    peers = configuration(arguments).peer
    if arguments.json:
        output.data([each.model_dump(mode="json") for each in peers])
        return
    headings = ("name", "AE title", "address", "results", "most frames", "transfer syntaxes", "commitment")
    output.table(headings, [_row(each) for each in peers])


def _row(peer: Peer) -> tuple[object, ...]:
    address = f"{peer.host}:{peer.port}{' (TLS)' if peer.tls else ''}" if peer.host else "-"
    syntaxes = " ".join(peer.transfer_syntaxes) or "as archived"
    return peer.name, peer.ae_title, address, " ".join(peer.results), peer.max_frames or "-", syntaxes, "yes" if peer.commitment else "no"


def _probe(arguments: argparse.Namespace) -> None:
    import time

    from dicom_node import log
    from dicom_node.checks import check_peer
    from dicom_node.probe.conversation import probe
    from dicom_node.probe.profile import recommended, toml

    log.configure("warning", role="cli")
    config = configuration(arguments)
    peer = config.peer_named(arguments.peer)
    if peer.host is None:
        raise UsageError(f"the peer '{peer.name}' has no host and port")
    reached = check_peer(config, peer)
    if not reached.ok:
        raise CommandFailed(f"{peer.name} cannot be probed: {reached.detail}")
    probed = probe(config, peer, at=time.time(), wait=arguments.wait, said=output.note)
    if arguments.json:
        output.data({**output.plain(probed), "recommended": recommended(probed.kinds)})
    else:
        for line in toml(probed, peer):
            output.line(line)
