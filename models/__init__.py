"""Imaging and learning: bundles, volumes, prediction and findings. Knows no database and no network."""
