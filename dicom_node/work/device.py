"""Whether a CUDA device is there, asked in a process of its own: torch and its driver stay out of whoever asks."""

from __future__ import annotations

import subprocess
import sys

from dicom_node.errors import ConfigurationError

DEADLINE = 120.0
_ASK = """
import sys, torch
number, count = int(sys.argv[1]), torch.cuda.device_count() if torch.cuda.is_available() else 0
if number >= count:
    sys.exit(f"torch sees {count or 'no'} CUDA device{'' if count == 1 else 's'}")
torch.zeros(1, device=f"cuda:{number}")
print(torch.cuda.get_device_name(number))
"""


def name_of(device: str) -> str:
    """The name of a device such as ``cuda:0``.

    Raises
    ------
    ConfigurationError
        It is not there, or cannot be used.
    """
    where = f"the device '{device}' in [executor] devices"
    number = device.partition(":")[2]
    try:
        asked = subprocess.run([sys.executable, "-c", _ASK, number], capture_output=True, text=True, timeout=DEADLINE, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(f"{where} does not answer within {DEADLINE:.0f} s") from error
    if asked.returncode != 0:
        said = asked.stderr.strip().splitlines()
        raise ConfigurationError(f"{where} cannot be used: {said[-1] if said else f'exit code {asked.returncode}'}")
    return asked.stdout.strip()
