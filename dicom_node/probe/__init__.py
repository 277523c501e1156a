"""What a peer takes, measured: synthetic objects of every kind go to it, and what it says becomes its profile.

objects.py        images of a test patient who does not exist, and their results in every form
conversation.py   `probe`: store, ask for commitment, query back
commitment.py     the report of a commitment, wherever it comes
profile.py        what was measured as a [[peer]] table
"""
