"""Transforms that MONAI lacks, for bundles: ``"_target_": "models.transforms.MedianFilterd"``.

Crop, resample and normalise with MONAI's own (CropForegroundd, SpatialCropd, CenterSpatialCropd, Spacingd, Orientationd,
NormalizeIntensityd, ScaleIntensityRangePercentilesd, ...).
"""

from models.transforms.grey import InvertMonochrome1d, ToGreyscaled, Windowd
from models.transforms.points import FeaturePointsd
from models.transforms.smoothing import BilateralFilterd, GaussianFilterd, MeanFilterd, MedianFilterd

__all__ = [
    "BilateralFilterd",
    "FeaturePointsd",
    "GaussianFilterd",
    "InvertMonochrome1d",
    "MeanFilterd",
    "MedianFilterd",
    "ToGreyscaled",
    "Windowd",
]
