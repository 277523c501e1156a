"""Which version of a model is used, and how it came to be so. Rows of all of it stand in :mod:`storage.releases`.

files.py       a release's files, by digest, out of reach of whoever edits the folder that they came from
report.py      an evaluation report, as read from its JSON
gate.py        what a report must show before a release is deployed
lifecycle.py   add, shadow, deploy, retire, roll back
resolve.py     which bundle a rule's word means now
shadow.py      how far a release that looks on agrees with the one in use
drift.py       what runs are given, beside what the model was trained on
scheduled.py   evaluations made again and again
"""
