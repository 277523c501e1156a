"""Findings as DICOM objects: a Prediction goes in, SEG, SR and whatever other form is wanted come out, encoded once.

    encode.py         the one entry: `encode(prediction, source_headers, context, images)`
    forms.py          the forms that there are, and which of them a peer's profile asks for
    segmentation.py   Segmentation (BINARY, FRACTIONAL, LABELMAP), whole or in parts
    report.py         Comprehensive 3D SR, TID 1500
    key_objects.py    Key Object Selection of the images to look at; key_images.py says which these are
    presentation.py   Grayscale Softcopy Presentation State; outlines.py follows the edges of a mask
    capture.py        Secondary Captures; picture.py draws them on what display.py windows
    sources.py        the source images as far as results refer to them
    attributes.py     what is copied from the source: patient, study, request, trial
    charset.py        text taken over byte by byte, or converted to UTF-8
    equipment.py      who made the object
    codes.py uids.py  coded concepts; UIDs derived from run, release, study and finding
    files.py          encoded objects as Part 10 files
    readback.py       `verify`: reads encoded objects again and compares them with the prediction

Nothing here reads a clock, a random number or the network: the same run gives the same bytes.
"""
