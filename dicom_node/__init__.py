"""The application: DICOM network, routing, workers, results and command line around `storage` and `models`."""
