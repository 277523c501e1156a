"""A log names no patient, whatever an exception or a library says."""

from __future__ import annotations

import json
import subprocess
import sys

from dicom_node.log import Repeated

PROGRAM = """
import logging, warnings
import structlog
from dicom_node import log

log.configure("info")
try:
    raise ValueError("DOE^JOHN")
except ValueError:
    structlog.get_logger().error("job.raised", exc_info=True)
    logging.getLogger("library").exception("DOE^JANE")
warnings.warn("DOE^JIM")
logging.getLogger("pydicom").warning("DOE^JILL")
"""


def test_the_text_of_exceptions_and_warnings_stays_out_of_the_log() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert "DOE" not in done.stdout + done.stderr
    assert '"error": "ValueError"' in done.stderr
    assert '"logger": "library"' in done.stderr
    assert '"logger": "pydicom"' not in done.stderr


NOBODY_CAUGHT = """
import threading
from dicom_node import log

log.configure("info")
def fail():
    raise ValueError("DOE^JOHN")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_what_nobody_caught_reaches_the_log_by_type_and_place_only() -> None:
    done = subprocess.run([sys.executable, "-c", NOBODY_CAUGHT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "DOE" not in done.stdout + done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(event["event"], event["error"]) for event in events] == [("unexpected.error", "ValueError")] * 2
    assert all(event["trace"].endswith("fail") for event in events)


def test_what_a_loop_says_again_and_again_is_worth_a_line_when_it_changes_and_once_a_minute() -> None:
    now = 1000.0
    repeated = Repeated(60.0, clock=lambda: now)
    assert [repeated.worth(text) for text in ("full", "full", "away", "away", "full")] == [True, False, True, False, True]
    now += 59.0
    assert not repeated.worth("full")
    now += 1.0
    assert repeated.worth("full")
    assert not repeated.worth("full")
