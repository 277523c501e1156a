"""``serve`` and the roles."""

from __future__ import annotations

import argparse
from typing import Any

from dicom_node.cli.common import command, configuration
from dicom_node.config import find_file
from dicom_node.errors import UsageError
from dicom_node.kept_config import load_kept


def add(commands: Any) -> None:
    serve = command(
        commands,
        "serve",
        "run the whole node: receiver, web, scheduler and workers",
        description="Run the whole node. Prints one line when it is ready, logs JSON to standard error, restarts a role that dies, and on "
        "SIGTERM lets open associations finish within [dimse] stop_deadline and gives jobs back.",
        example="dicom-node serve --config /etc/dicom-node/node.toml",
    )
    serve.set_defaults(run=_serve)
    for name, text in (
        ("receiver", "run only the receiver (C-STORE, C-ECHO)"),
        ("web", "run only health and metrics over HTTP"),
        ("scheduler", "run only the clock: completion, leases, header JSON"),
    ):
        command(commands, name, text).set_defaults(run=_role, role=name)
    worker = command(
        commands,
        "worker",
        "run only a worker: --io routes and delivers, --device runs models",
        example="dicom-node worker --device cuda:0",
    )
    which = worker.add_mutually_exclusive_group(required=True)
    which.add_argument("--io", action="store_true", help="route studies and deliver results")
    which.add_argument("--device", metavar="DEVICE", help="run models on cpu or cuda:N")
    worker.set_defaults(run=_worker)


def _serve(arguments: argparse.Namespace) -> None:
    from dicom_node.serve import Supervisor

    config = configuration(arguments)
    Supervisor(config, find_file(arguments.config).absolute()).run()


def _role(arguments: argparse.Namespace) -> None:
    from dicom_node import roles

    {"receiver": roles.receiver, "web": roles.web, "scheduler": roles.scheduler}[arguments.role](load_kept(find_file(arguments.config)))


def _worker(arguments: argparse.Namespace) -> None:
    from dicom_node import roles

    config = load_kept(find_file(arguments.config))
    if arguments.io:
        roles.io_worker(config, file=find_file(arguments.config).absolute())
        return
    if arguments.device != "cpu" and not arguments.device.startswith("cuda:"):
        raise UsageError(f"--device {arguments.device}: use cpu or cuda:N")
    roles.inference_worker(config, arguments.device)
