"""Training: one configuration in, a MONAI bundle that the node can serve out.

config.py          the TOML file, frozen and checked
components.py      MONAI and torch parts named in it
prepared.py        items after the deterministic graph, cached by content
batches.py         augmentation and batches, a function of seed, epoch and item alone
task.py            what a task must answer; segmentation.py classification.py detection.py autoencoder.py pretraining.py
loop.py            epochs, mixed precision, averaged weights, validation, early stopping
checkpoints.py     atomic state on disk
bundle_writer.py   the finished bundle with its card
clusters.py        groups in a table of features, with an honest number of them
"""
