"""Which models a completed study gets, where its originals go, and why the rest is passed over.

rules.py       of which series a rule speaks
narrow.py      a rule's choice among the series that it matches
selection.py   the series that a model wants, from those that the rule leaves
plan.py        what a whole rule file makes of a study, conflicts included: a pure function
look.py        a stored study, as rules see it
replay.py      what a rule file would have done, beside what was done
live.py        the rules of a running node, taken anew when their file changes
late.py        what a late instance changes
"""
