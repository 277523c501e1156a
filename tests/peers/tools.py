"""Running the programs that judge DICOM objects: dicom3tools, dcmqi, PixelMed, DCMTK."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# DicomSRValidator's templates are larger than the XPath limits that newer Java versions set.
JAVA_OPTIONS = "-Djdk.xml.xpathExprOpLimit=0 -Djdk.xml.xpathTotalOpLimit=0 -Djdk.xml.xpathExprGrpLimit=0"


def program(name: str) -> str:
    """A tool that came with the test extra (beside this Python), or Debian's."""
    beside = Path(sys.executable).parent / name
    return str(beside if beside.exists() else Path("/usr/bin") / name)


def output(name: str, *arguments: str | Path, ok: Sequence[int] = (0, 1)) -> str:
    """Run a tool; its standard output and error together."""
    command = [name if "/" in name else program(name), *map(str, arguments)]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, env={**os.environ, "JAVA_TOOL_OPTIONS": JAVA_OPTIONS}
    )
    text = result.stdout.decode(errors="replace")
    assert result.returncode in ok, f"{name} ended with {result.returncode}:\n{text}"
    return text


def lines(text: str, *starts: str) -> list[str]:
    return [line for line in text.splitlines() if line.lstrip().startswith(starts)]


def iod_errors(path: Path) -> list[str]:
    """What dciodvfy finds wrong with one object."""
    return lines(output("dciodvfy", "-new", path), "Error", "Abort")


def study_complaints(paths: Sequence[Path]) -> list[str]:
    """What dcentvfy finds inconsistent between the objects of a study.

    It places AccessionNumber of an SR in another information entity than that of images, for every SR;
    that one line is no complaint about an object.
    """
    found = lines(output("dcentvfy", *paths), "Error", "Warning", "Abort")
    return [line for line in found if not ("Different information entities" in line and "<AccessionNumber>" in line)]


def template_errors(path: Path) -> list[str]:
    """What DicomSRValidator finds wrong, after asserting that it recognised TID 1500."""
    text = output("/usr/bin/DicomSRValidator", path)
    assert "Found Root Template TID_1500" in text, text
    assert "IOD validation complete" in text, text
    return lines(text, "Error")
