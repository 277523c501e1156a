"""Peak memory while one multi-frame instance of a gigabyte comes in, over the idle receiver."""

from __future__ import annotations

import argparse
import struct
import threading
import time
from pathlib import Path

from benchmarks.instances import EXPLICIT_VR_LITTLE_ENDIAN, multi_frame
from benchmarks.load import Plan, Wire, run, store_command
from benchmarks.receivers import available, await_idle, await_true, fresh, resident
from benchmarks.report import WORK, save, table

MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"


def stream(port: int, called: str, size: int) -> tuple[int, int, float]:
    """Send one instance of about `size` bytes as fragments; return (status, bytes, seconds)."""
    head, pixels = multi_frame(size)
    with Wire("127.0.0.1", port, called=called, calling="LOAD", contexts=[(MULTI_FRAME, [EXPLICIT_VR_LITTLE_ENDIAN])], timeout=300) as wire:
        sop = "2.25." + "1" * 39
        command = store_command(MULTI_FRAME, sop)
        began = time.monotonic()
        wire.socket.sendall(struct.pack(">BBIIBB", 4, 0, len(command) + 6, len(command) + 2, 1, 3) + command)
        step = min(wire.pdu_length or 1 << 18, 1 << 18) - 6
        first, left = head, pixels
        body = bytes(step)
        fragment = struct.pack(">BBIIBB", 4, 0, step + 6, step + 2, 1, 0) + body
        wire.socket.sendall(struct.pack(">BBIIBB", 4, 0, len(first) + 6, len(first) + 2, 1, 0) + first)
        while left > step:
            wire.socket.sendall(fragment)
            left -= step
        wire.socket.sendall(struct.pack(">BBIIBB", 4, 0, left + 6, left + 2, 1, 2) + bytes(left))
        status, _ = wire.read_response()
        return status, len(head) + pixels, time.monotonic() - began


def measure(key: str, size: int, folder: Path) -> dict[str, float | str]:
    """Return what one receiver needs: idle, peak and the difference, in MB."""
    receiver = available()[key]()
    receiver.start(fresh(folder / key))
    try:
        process = receiver.process()
        await_idle(process)
        warm = run("127.0.0.1", receiver.port, Plan("ct", studies=1, per_study=20, called=receiver.called))
        await_true(receiver.settled, "the warm-up is settled")
        await_idle(process)
        idle = peak = resident(process)
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.02):
                peak = max(peak, resident(process))

        watcher = threading.Thread(target=watch)
        watcher.start()
        status, sent, seconds = stream(receiver.port, receiver.called, size)
        await_true(receiver.settled, "the header JSON is made")
        time.sleep(0.5)
        done.set()
        watcher.join()
        if status or receiver.wrong(warm.acknowledged):
            raise SystemExit(f"{key}: status {status:04X}")
        megabyte = 1_000_000
        return {
            "receiver": receiver.name,
            "sent": sent / megabyte,
            "seconds": seconds,
            "idle": idle / megabyte,
            "peak": peak / megabyte,
            "over": (peak - idle) / megabyte,
        }
    finally:
        receiver.stop()
        fresh(folder / key).rmdir()


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--receivers", nargs="+", default=[key for key in ("node", "orthanc") if key in available()])
    parser.add_argument("--folder", type=Path, default=WORK)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    samples = [measure(key, arguments.megabytes * 1_000_000, arguments.folder.resolve()) for key in arguments.receivers]
    rows = [
        [str(one["receiver"]), *(f"{float(one[name]):.0f} MB" for name in ("idle", "peak", "over")), f"{float(one['seconds']):.1f} s"]
        for one in samples
    ]
    text = table([f"one instance of {arguments.megabytes} MB", "idle", "peak", "over idle", "time"], rows)
    print(text)
    if arguments.save:
        save("memory", {"samples": samples}, text)


if __name__ == "__main__":
    main()
