"""A log names no patient, whatever an exception or a library says."""

from __future__ import annotations

import subprocess
import sys

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
