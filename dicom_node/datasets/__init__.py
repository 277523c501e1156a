"""Data sets out of the node's own archive: read for training, or exported without identity.

archive.py            ArchiveDataSet: a query's images, with labels from SEG and SR, as models.datasets has it
labels.py             SEG to a label map, SR to labels
confidentiality.py    PS3.15 Table E.1-1
deidentify.py         one data set after the Basic Application Level Confidentiality Profile
export.py             a whole training set without identity, with its manifest
"""
