"""Numbers that describe an image or a region of it: intensity, texture, edges, shape and colour.

Names follow the Image Biomarker Standardisation Initiative (IBSI, reference manual v11) where it defines the
feature; others carry the name of their method.
"""
