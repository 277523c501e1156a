"""Findings as DICOM objects: a Prediction goes in, SEG and SR come out, encoded once.

    encode.py         the one entry: `encode(prediction, source_headers, context)`
    segmentation.py   Segmentation (BINARY, FRACTIONAL)
    report.py         Comprehensive 3D SR, TID 1500
    sources.py        the source images as far as results refer to them
    attributes.py     what is copied from the source: patient, study, request, trial
    charset.py        text taken over byte by byte, or converted to UTF-8
    equipment.py      who made the object
    codes.py uids.py  coded concepts; UIDs derived from run, release, study and finding
    files.py          encoded objects as Part 10 files
    readback.py       `verify`: reads encoded objects again and compares them with the prediction

Nothing here reads a clock, a random number or the network: the same run gives the same bytes.
"""
