"""Data sets for training and evaluation, and what can be known of them before anything is learnt.

    protocol.py                 what a data set is: items with image, mask, labels, boxes, subject
    loading.py                  item > pixels, as the node would hand them to a bundle
    collection.py               a data set in memory; what all readers share
    pairs.py table.py voc.py    readers: folders of images and masks, tables of images, PASCAL VOC,
    mimic.py manifest.py        MIMIC, and this project's own manifests
    source.py                   the reader that a word on the command line, or a TOML table, names
    splits.py stratify.py       by subject, seeded, stored
    fingerprint.py              a digest and statistics, to compare with what arrives later
    survey.py                   one look at every image, kept while it goes on
    describe.py clean.py        what is there; what is wrong with it

Nobody's identity is kept: where a file names a patient, the subject is a pseudonym.
"""
