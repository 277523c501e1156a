"""``python -m dicom_node``: the command line."""

import sys

from dicom_node.cli.main import main

sys.exit(main())
