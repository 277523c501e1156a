"""The application: DICOM network, routing, workers, results and command line around `storage` and `models`."""

__version__ = "0.1.0"
