"""Data sets for training and evaluation: what they hold (:mod:`.protocol`), how an item is loaded (:mod:`.loading`), and readers."""
