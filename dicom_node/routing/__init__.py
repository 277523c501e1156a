"""Which models a completed study gets, on which series, and why the other series are passed over.

rules.py       a rule's own matching, before any model is asked
selection.py   the series that a model wants, from those the rule leaves
late.py        what a late instance changes
"""
