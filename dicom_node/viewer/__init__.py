"""The viewer that comes with the node: OHIF as its makers built it, of one version, changed only as far as living under /viewer needs."""

from __future__ import annotations

from typing import Final

PACKAGE: Final = "@ohif/app"
VERSION: Final = "3.13.2"
SHA512: Final = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
"""Of the package's tarball, in base64, as lock files write it."""
BASE: Final = "/viewer"  # open to everybody, see dicom_node.web.authentication
INSTALL: Final = "dicom-node viewer install"
