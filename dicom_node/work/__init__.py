"""Carrying out jobs.

worker.py      claim, heartbeat, hand to a handler, record how it ended
route.py       a completed study > selections and runs
infer.py       a run > findings > archived results and deliveries, in one transaction
deliver.py     archived results > a peer
executors.py   where a model runs: in this process, or in a warm child that may die alone
child.py       that child
inference.py   what runs there: images > findings > encoded objects
"""
