"""Filters beside SciPy and OpenCV, features beside scikit-image and pyradiomics: `python -m benchmarks.preprocessing`.

Ours and the peers take turns on the same arrays in one process; of each the median counts. pyradiomics does not install beside
this package: `--pyradiomics PYTHON` names an interpreter that has it; it runs there, on the same arrays, with its own clock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.report import save, table
from models.features.extract import Extraction, extract
from models.filters import bilateral_filter, gaussian_filter, mean_filter, median_filter

Work = Callable[[], object]
CHILD = """
import json, sys, time, logging
import numpy as np, SimpleITK as sitk
logging.disable(logging.CRITICAL)
from radiomics import firstorder, glcm, shape, shape2D
held = np.load(sys.argv[1]); repeats = int(sys.argv[2]); answer = {}
for name in ("flat", "solid"):
    image, mask = sitk.GetImageFromArray(held[name]), sitk.GetImageFromArray(held[name + "_mask"].astype(np.uint8))
    spacing = [float(x) for x in held[name + "_spacing"]]
    image.SetSpacing(spacing); mask.SetSpacing(spacing)
    if name == "flat":
        image, mask = sitk.JoinSeries(image), sitk.JoinSeries(mask)
    kinds = {"intensity": firstorder.RadiomicsFirstOrder, "glcm": glcm.RadiomicsGLCM}
    kinds["shape"] = shape2D.RadiomicsShape2D if name == "flat" else shape.RadiomicsShape
    for kind, made in kinds.items():
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            options = dict(binWidth=25, label=1, force2D=name == "flat", force2Ddimension=0)
            found = made(image, mask, **options).execute()
            times.append(time.perf_counter() - started)
        answer[f"{kind} {name}"] = {"seconds": times, "values": {key: float(value) for key, value in found.items()}}
print(json.dumps(answer))
"""


def seconds(works: Mapping[str, Work], repeats: int) -> dict[str, float]:
    """Median seconds of each, taking turns, after one turn that does not count."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if turn:
                found[name].append(time.perf_counter() - started)
    return {name: median(times) for name, times in found.items()}


def filters(flat: NDArray[np.float32], solid: NDArray[np.float32]) -> dict[str, dict[str, Work]]:
    """Each filter by ours and by the libraries that have it."""
    edge, narrow = cv2.BORDER_REPLICATE, 60.0
    return {
        "mean 5, 2-D": {
            "ours": lambda: mean_filter(flat, 5),
            "SciPy": lambda: ndimage.uniform_filter(flat, 5, mode="nearest"),
            "OpenCV": lambda: cv2.blur(flat, (5, 5), borderType=edge),
        },
        "mean 5, 3-D": {"ours": lambda: mean_filter(solid, 5), "SciPy": lambda: ndimage.uniform_filter(solid, 5, mode="nearest")},
        "median 5, 2-D": {
            "ours": lambda: median_filter(flat, 5),
            "SciPy": lambda: ndimage.median_filter(flat, 5, mode="nearest"),
            "OpenCV": lambda: cv2.medianBlur(flat, 5),
        },
        "median 3, 3-D": {"ours": lambda: median_filter(solid, 3), "SciPy": lambda: ndimage.median_filter(solid, 3, mode="nearest")},
        "Gaussian 2, 2-D": {
            "ours": lambda: gaussian_filter(flat, 2.0),
            "SciPy": lambda: ndimage.gaussian_filter(flat, 2.0, mode="nearest"),
            "OpenCV": lambda: cv2.GaussianBlur(flat, (17, 17), 2.0, borderType=edge),
        },
        "Gaussian 2, 3-D": {
            "ours": lambda: gaussian_filter(solid, 2.0),
            "SciPy": lambda: ndimage.gaussian_filter(solid, 2.0, mode="nearest"),
        },
        "bilateral 3, 2-D": {
            "ours": lambda: bilateral_filter(flat, 3.0, narrow),
            "OpenCV": lambda: cv2.bilateralFilter(flat, 13, narrow, 3.0, borderType=edge),
        },
        "bilateral 1, 3-D": {"ours": lambda: bilateral_filter(solid, 1.0, narrow), "SimpleITK": _simpleitk(solid, 1.0, narrow)},
    }


def _simpleitk(solid: NDArray[np.float32], sigma: float, narrow: float) -> Work:
    import SimpleITK

    part = SimpleITK.GetImageFromArray(solid)
    return lambda: SimpleITK.Bilateral(part, domainSigma=sigma, rangeSigma=narrow)  # type: ignore[no-untyped-call]


def features(flat: NDArray[Any], inside: NDArray[Any]) -> dict[str, dict[str, Work]]:
    """Feature classes by ours and by scikit-image, in two dimensions."""
    from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
    from skimage.measure import regionprops

    properties = ("contrast", "dissimilarity", "homogeneity", "ASM", "correlation", "entropy")

    def levels(number: int) -> NDArray[np.uint8]:
        return np.asarray(np.minimum((flat - flat.min()) / np.ptp(flat) * number, number - 1), np.uint8)

    def co_occurrence() -> list[Any]:
        matrix = graycomatrix(levels(32), [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], 32, symmetric=True, normed=True)
        return [graycoprops(matrix, each) for each in properties]

    def patterns() -> object:
        return np.bincount(local_binary_pattern(levels(256), 8, 1, method="uniform").astype(np.int64).ravel(), minlength=10)

    def shape() -> object:
        (one,) = regionprops(inside.astype(np.uint8))
        return one.area, one.perimeter, one.axis_major_length, one.axis_minor_length, one.solidity, one.feret_diameter_max, one.euler_number

    ours = _ours(flat, inside, (1.0, 1.0))
    whole = _ours(flat, None, (1.0, 1.0))
    return {
        "GLCM, 2-D (theirs 6 features, ours 23)": {"ours": whole("glcm"), "scikit-image": co_occurrence},
        "LBP, 2-D": {"ours": whole("lbp"), "scikit-image": patterns},
        "outline, axes, hull, 2-D": {"ours": ours("shape"), "scikit-image": shape},
    }


def _ours(image: NDArray[Any], mask: NDArray[Any] | None, spacing: tuple[float, ...], bin_width: float | None = None) -> Any:
    return lambda kind: lambda: extract(image[None], mask, spacing, Extraction((kind,), bin_width))


def radiomics(python: Path, arrays: dict[str, NDArray[Any]], repeats: int) -> dict[str, dict[str, Any]]:
    """pyradiomics on the same arrays: seconds and values by class."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "arrays.npz", **arrays)  # type: ignore[arg-type]
        done = subprocess.run([python, "-c", CHILD, f"{folder}/arrays.npz", str(repeats)], capture_output=True, text=True, check=True)
    answer: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def inputs(side: int) -> dict[str, NDArray[Any]]:
    """A smooth random picture and volume with a ball inside; arrays are (y, x) and (z, y, x)."""
    chance = np.random.default_rng(1)
    made: dict[str, NDArray[Any]] = {}
    for name, shape, spacing in (("flat", (side, side), (0.5, 0.5)), ("solid", (side // 8,) * 3, (1.0, 1.0, 1.5))):
        smooth = ndimage.gaussian_filter(chance.normal(size=shape), 2.0)
        made[name] = (500 + 150 * smooth / smooth.std() + chance.normal(size=shape) * 20).astype(np.float32)
        away = np.indices(shape).astype(np.float64) - np.reshape(shape, (-1,) + (1,) * len(shape)) / 2
        made[f"{name}_mask"] = (away**2).sum(axis=0) < (shape[0] * 0.4) ** 2
        made[f"{name}_spacing"] = np.array(spacing)
    return made


def main() -> None:
    """Measure, print a table, keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--side", type=int, default=1024, help="of the picture; the volume's is an eighth")
    parser.add_argument("--pyradiomics", type=Path, metavar="PYTHON", help="an interpreter that has pyradiomics")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    arrays = inputs(arguments.side)
    measured = {name: seconds(works, arguments.repetitions) for name, works in filters(arrays["flat"], arrays["solid"]).items()}
    measured |= {name: seconds(works, arguments.repetitions) for name, works in features(arrays["flat"], arrays["flat_mask"]).items()}
    if arguments.pyradiomics:
        theirs = radiomics(arguments.pyradiomics, arrays, arguments.repetitions)
        for name, answer in theirs.items():
            kind, which = name.split()
            axes = tuple(reversed(range(arrays[which].ndim)))
            spacing = tuple(float(each) for each in arrays[f"{which}_spacing"])
            work = _ours(arrays[which].transpose(axes), arrays[f"{which}_mask"].transpose(axes), spacing, 25.0)(kind)
            ours = seconds({"ours": work}, arguments.repetitions)
            measured[f"{kind}, {arrays[which].ndim}-D"] = {**ours, "pyradiomics": median(answer["seconds"])}
    rows = [_row(name, times) for name, times in measured.items()]
    text = table(("", "ours, ms", "peers, ms", "ours / fastest peer"), rows)
    print(text)
    if arguments.save:
        save("preprocessing", {"seconds": measured}, text)


def _row(name: str, times: dict[str, float]) -> list[str]:
    peers = {peer: value for peer, value in times.items() if peer != "ours"}
    told = ", ".join(f"{peer} {1000 * value:.1f}" for peer, value in peers.items())
    return [name, f"{1000 * times['ours']:.1f}", told, f"{times['ours'] / min(peers.values()):.2f}"]


if __name__ == "__main__":
    main()
