"""docs/tutorial.md, command by command: from an empty folder to lungs that arrive in the PACS."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from highdicom.seg import segread
from pydicom import dcmread

from tests.conftest import ROOT
from tests.peers.orthanc import Orthanc, free_ports

pytestmark = [
    pytest.mark.peer("Orthanc"),
    pytest.mark.xdist_group("serve"),
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # it trains, and starts a dozen programs
]
FILMS = 60  # of 138: enough to learn where lungs are

SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def commands(text: str) -> str:
    """All that the tutorial tells to type, in its order."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def test_every_command_of_the_tutorial(real_data: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for name in ("images", "labels"):
        (films / name).mkdir()
        for path in sorted((real_data / "cxr-lungs" / name).iterdir())[:FILMS]:
            shutil.copy(path, films / name)
    film = real_data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm"
    dicom, web = free_ports(2)
    folder = tmp_path / "empty"
    folder.mkdir()
    with Orthanc(tmp_path / "orthanc", modalities={"node": ("DICOM_NODE", "127.0.0.1", dicom)}) as orthanc:
        script = commands((ROOT / "docs" / "tutorial.md").read_text())
        for said, meant in (("4242", orthanc.dicom_port), ("11112", dicom), ("8042", web)):
            assert said in script
            script = script.replace(said, str(meant))
        place = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        log = tmp_path / "log"
        with log.open("w") as output:
            shell = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT\n{script}"],
                cwd=folder,
                env={**os.environ, "PATH": place, "FILMS": str(films), "FILM": str(film), "XDG_CACHE_HOME": str(tmp_path / "cache")},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = shell.wait(timeout=800)
            finally:
                if shell.poll() is None:
                    os.killpg(shell.pid, signal.SIGKILL)
                    shell.wait()
        assert code == 0, f"{log.read_text()[-4000:]}\n{''.join(path.read_text()[-3000:] for path in folder.glob('serve.log'))}"
        masks = {}
        for each in orthanc.instances():
            tags = orthanc.tags(each["ID"])
            if str(tags["SOPClassUID"]) == SEG:
                seg = tmp_path / f"{each['ID']}.dcm"
                seg.write_bytes(orthanc.instance_bytes(each["ID"]))
                mask = segread(seg).get_pixels_by_source_instance([dcmread(film).SOPInstanceUID])[0].max(-1) > 0
                masks[str(tags["SeriesDescription"]).split()[0]] = mask
    assert set(masks) == {"lungs", "cxr_lungs"}
    assert all(0.1 < mask.mean() < 0.5 for mask in masks.values())
    assert (folder / "exported" / "manifest.jsonl").is_file()
    assert (folder / "evaluation" / "report.html").is_file()
