"""``echo``, ``send``, ``find``, ``move`` and ``get``: the node's own SCU at the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.cli import output
from dicom_node.cli.common import command, with_json
from dicom_node.config import Config, Peer, find_file, load
from dicom_node.errors import CommandFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dicom_node.dimse.scu import StoreItem
    from dicom_node.dimse.scu_retrieve import RetrieveResponse, Wanted


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
    _add_find(commands)
    _add_retrieve(commands)


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


# --- find


def _add_find(commands: Any) -> None:
    find = command(
        commands,
        "find",
        "query a peer by C-FIND, Study Root",
        description="Ask a peer for studies, series or instances. A key without a value is only returned; keys are DICOM keywords.",
        example="dicom-node find pacs -k PatientName=DOE* -k StudyDate=20260101-20260131\n"
        "  dicom-node find pacs --level series -k StudyInstanceUID=1.2.3 -k Modality --json",
    )
    _target(find)
    find.add_argument("--level", choices=("study", "series", "image"), default="study", help="Query/Retrieve Level (default: study)")
    find.add_argument("-k", "--key", action="append", default=[], metavar="KEYWORD[=VALUE]", help="attribute to match or return")
    with_json(find)
    find.set_defaults(run=_find)


def _find(arguments: argparse.Namespace) -> int:
    from dicom_node.dimse.scu_find import FindEnded, find, find_contexts
    from dicom_node.finding import identifier, shown
    from dicom_node.work.associating import associate_peer

    config, peer = _peer(arguments)
    asked = identifier(arguments.level, arguments.key)
    matches, ended = [], ""
    with associate_peer(config, peer, find_contexts()) as association:
        try:
            for match in find(association, asked):
                matches.append(match)
                if not arguments.json:
                    output.line("\t".join(shown(match, asked)))
        except FindEnded as error:
            ended = f"{error}: {error.comment}" if error.comment else str(error)
    if arguments.json:
        output.data([match.to_json_dict() for match in matches])
    if ended:
        raise CommandFailed(f"{len(matches)} matches, then {ended}")
    output.note(f"{len(matches)} matches")
    return 0


# --- retrieve


def _add_retrieve(commands: Any) -> None:
    move = command(
        commands,
        "move",
        "have a peer send a study, series or instance to another AE, by C-MOVE",
        example="dicom-node move pacs DICOM_NODE --study 1.2.3",
    )
    _target(move)
    move.add_argument("destination", metavar="AE", help="AE title that the peer is to send to; the peer has to know it")
    _wanted(move)
    move.set_defaults(run=_move)
    get = command(
        commands,
        "get",
        "fetch a study, series or instance from a peer into a folder, by C-GET",
        example="dicom-node get 127.0.0.1:11112 --called DICOM_NODE --study 1.2.3 --out ./study",
    )
    _target(get)
    _wanted(get)
    get.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where the files go (default: here)")
    get.set_defaults(run=_get)


def _wanted(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", required=True, metavar="UID", help="Study Instance UID")
    parser.add_argument("--series", metavar="UID", help="Series Instance UID: this series only")
    parser.add_argument("--instance", metavar="UID", help="SOP Instance UID: this instance only; needs --series")
    with_json(parser)


def _wanted_of(arguments: argparse.Namespace) -> Wanted:
    from dicom_node.dimse.scu_retrieve import Wanted

    if arguments.instance and not arguments.series:
        raise UsageError("--instance needs --series: a retrieve names every level above its own")
    level = "IMAGE" if arguments.instance else "SERIES" if arguments.series else "STUDY"
    series = (arguments.series,) if arguments.series else ()
    return Wanted(level, (arguments.study,), series, (arguments.instance,) if arguments.instance else ())


def _move(arguments: argparse.Namespace) -> int:
    from dicom_node.dimse.scu_retrieve import move, move_contexts
    from dicom_node.work.associating import associate_peer

    config, peer = _peer(arguments)
    wanted = _wanted_of(arguments)
    with associate_peer(config, peer, move_contexts()) as association:
        response = _last(move(association, arguments.destination, wanted))
    return _tell(arguments, response, f"sent to {arguments.destination}")


def _get(arguments: argparse.Namespace) -> int:
    from dicom_node.dimse.scu_retrieve import get
    from dicom_node.fetching import FolderSink, associate_for_get

    config, peer = _peer(arguments)
    wanted = _wanted_of(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sink = FolderSink(arguments.out)
    with associate_for_get(config, peer) as association:
        response = _last(get(association, wanted, sink.take))
    return _tell(arguments, response, f"written to {arguments.out}")


def _last(responses: Iterator[RetrieveResponse]) -> RetrieveResponse:
    """The final response; how far it is shows on the way."""
    for response in responses:
        if response.final:
            return response
        counts = response.counts
        output.note(f"{counts.completed + counts.warning} done, {counts.failed} failed, {counts.remaining} to come")
    raise CommandFailed("the peer sent no final response")


def _tell(arguments: argparse.Namespace, response: RetrieveResponse, done: str) -> int:
    counts = response.counts
    if arguments.json:
        output.data({"status": f"{response.status:04X}", "comment": response.comment, **counts._asdict()})
    else:
        output.line(f"{counts.completed + counts.warning} instances {done}, {counts.failed} failed ({response.status:04X})")
        if response.comment:
            output.line(response.comment)
    return 0 if response.status == 0 or (response.status == 0xB000 and not counts.failed) else 1
