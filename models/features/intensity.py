"""First-order statistics of the values of a region (IBSI 3.3 and 3.4)."""

from __future__ import annotations

import numpy as np

from models.features.region import Region


def intensity_features(region: Region, *, bin_width: float | None = None, bins: int = 32) -> dict[str, float]:
    """Statistics of the values, and entropy and uniformity of their histogram; in the image's own units."""
    values = region.values
    p10, p25, median, p75, p90 = np.percentile(values, (10, 25, 50, 75, 90))
    mean, low, high = values.mean(), values.min(), values.max()
    centred = values - mean
    squares = centred * centred
    variance = squares.mean()
    robust = values[(values >= p10) & (values <= p90)]
    deviation = np.sqrt(variance)
    return {
        "intensity.mean": float(mean),
        "intensity.variance": float(variance),
        "intensity.skewness": _ratio((squares * centred).mean(), deviation**3),
        "intensity.kurtosis": _ratio((squares * squares).mean(), variance**2) - (3.0 if variance else 0.0),
        "intensity.median": float(median),
        "intensity.minimum": float(low),
        "intensity.percentile_10": float(p10),
        "intensity.percentile_90": float(p90),
        "intensity.maximum": float(high),
        "intensity.interquartile_range": float(p75 - p25),
        "intensity.range": float(high - low),
        "intensity.mean_absolute_deviation": float(np.abs(centred).mean()),
        "intensity.robust_mean_absolute_deviation": float(np.abs(robust - robust.mean()).mean()),
        "intensity.median_absolute_deviation": float(np.abs(values - median).mean()),
        "intensity.coefficient_of_variation": _ratio(deviation, mean),
        "intensity.quartile_coefficient_of_dispersion": _ratio(p75 - p25, p75 + p25),
        "intensity.energy": float(np.dot(values, values)),
        "intensity.root_mean_square": float(np.sqrt(np.dot(values, values) / len(values))),
        **_histogram(region, bin_width, bins),
    }


def _histogram(region: Region, bin_width: float | None, bins: int) -> dict[str, float]:
    levels, number = region.levels(bin_width, bins)
    counts = np.bincount(levels.ravel(), minlength=number + 1)[1:]
    share = counts[counts > 0] / counts.sum()
    return {"histogram.entropy": float(-(share * np.log2(share)).sum()) + 0.0, "histogram.uniformity": float((share * share).sum())}


def _ratio(above: float, below: float) -> float:
    """A ratio that is 0 where nothing varies."""
    return float(above / below) if below else 0.0
