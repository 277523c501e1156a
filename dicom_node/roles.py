"""The roles of a node, each a process of its own: receiver, web, scheduler, io and inference worker. Run by ``serve`` or by hand."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import structlog

from dicom_node import log as logging
from dicom_node.config import Config
from dicom_node.errors import ConfigurationError
from dicom_node.node import LeasedAssociations, build_executor, build_inference_worker, build_io_workers, build_server, open_node
from dicom_node.routing.live import LiveRules
from dicom_node.work.device import name_of
from dicom_node.work.worker import Worker
from dicom_node.workitem_events import Reporter, build_reporters

log = structlog.get_logger()

READY_FD = "DICOM_NODE_READY_FD"
SUPERVISOR_PID = "DICOM_NODE_SUPERVISOR_PID"
Ready = Callable[[str], None]


def announce(text: str) -> None:
    """Tell whoever started us that we serve: a line on the pipe in DICOM_NODE_READY_FD, else on standard output."""
    descriptor = os.environ.get(READY_FD)
    line = text + "\n"
    if descriptor is None:
        with contextlib.suppress(BrokenPipeError):
            os.write(1, line.encode())
        return
    with contextlib.suppress(OSError):
        os.write(int(descriptor), line.encode())


@contextlib.contextmanager
def until_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; it ends the role in good order."""
    stop = threading.Event()

    def set_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, set_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def await_stop(stop: threading.Event) -> None:
    """Wait without a busy loop; the supervisor's death ends us as well."""
    supervisor = int(os.environ[SUPERVISOR_PID]) if SUPERVISOR_PID in os.environ else None
    while not stop.wait(1.0):
        if supervisor is not None and os.getppid() != supervisor:
            log.warning("supervisor.gone")
            return


def receiver(config: Config, ready: Ready = announce) -> None:
    """Receive by C-STORE, answer C-ECHO."""
    logging.configure(config.log.level, role="receiver")
    with until_signal() as stop, open_node(config, "receiver") as node:
        report = node.archive.recover()
        log.info("archive.recovered", report=str(report))
        hooks = LeasedAssociations(node)
        server = build_server(node, hooks)
        hooks.start()
        try:
            server.start()
        except OSError as error:
            where = f"'dimse.host' = '{config.dimse.host}', 'dimse.port' = {config.dimse.port}"
            raise ConfigurationError(f"{where}: nothing can be received there: {error.strerror}") from error
        ready(f"receiver ready: {config.node.ae_title} on {config.dimse.host} port {server.port}")
        await_stop(stop)
        log.info("receiver.stopping", associations=server.associations)
        server.stop(config.dimse.stop_deadline)
        hooks.stop()


def scheduler(config: Config, ready: Ready = announce) -> None:
    """Complete quiet studies, free leases, write header JSON."""
    import logging as standard_logging

    from dicom_node.schedule import build_scheduler

    logging.configure(config.log.level, role="scheduler")
    with until_signal() as stop, open_node(config, "scheduler") as node:
        standard_logging.getLogger("apscheduler").setLevel(standard_logging.ERROR)  # a beat skipped under load is made up by the next
        clock = build_scheduler(node)
        clock.start()
        ready("scheduler ready")
        await_stop(stop)
        clock.shutdown(wait=True)


def io_worker(config: Config, ready: Ready = announce, *, file: Path | None = None) -> None:
    """Route studies and deliver results, one thread per destination. Rules are taken anew when ``file`` changes, at once on SIGHUP."""
    logging.configure(config.log.level, role="io")
    with until_signal() as stop, open_node(config, "io") as node:
        rules = LiveRules(file, config, clock=node.clock) if file is not None else None
        workers: list[Worker | Reporter] = [*build_io_workers(node, rules), *build_reporters(node)]
        if rules is not None:
            signal.signal(signal.SIGHUP, lambda number, frame: rules.ask())
            threading.Thread(target=rules.watch, args=(stop,), name="rules", daemon=True).start()
        threads = [threading.Thread(target=worker.run, name=f"worker-{number}") for number, worker in enumerate(workers)]
        for thread in threads:
            thread.start()
        ready(f"io worker ready: routing and {len(config.destinations)} destinations")
        await_stop(stop)
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()


def inference_worker(config: Config, device: str, ready: Ready = announce) -> None:
    """Run models on one device."""
    logging.configure(config.log.level, role=f"inference-{device}")
    if device != "cpu":
        log.info("device.found", device=device, name=name_of(device))
    with until_signal() as stop, open_node(config, f"inference-{device}") as node:
        executor = build_executor(config, device)
        worker = build_inference_worker(node, executor)
        executor.warm_up()
        thread = threading.Thread(target=worker.run, name="worker")
        thread.start()
        ready(f"inference worker ready on {device}")
        await_stop(stop)
        worker.stop()
        thread.join()
        worker.close()
        executor.close()


def web(config: Config, ready: Ready = announce) -> None:
    """Health and metrics over HTTP."""
    from dicom_node.web.app import serve

    logging.configure(config.log.level, role="web")
    with until_signal() as stop, open_node(config, "web") as node:
        serve(node, lambda: await_stop(stop), ready)
