"""Time of FPD and KPD against JetNet's, on the same features, with the values of both.

Claim: with the settings of the CaloChallenge, at 50,000 x 362 features a side, both are at least 2.5 times as fast as
those of JetNet 0.2.5, and the values agree, because the draws are the same. Ours include the jackknife error that
JetNet does not have.

JetNet 0.2.5 needs older packages than this project, so it lives in an environment of its own:

    python -m venv jetnet-env
    jetnet-env/bin/pip install "jetnet==0.2.5" "numpy<2" "pyarrow<21"

Both sides run alternately, each time in a process of its own on the same files, with the same number of threads
(OMP_NUM_THREADS, by default all cores). Imports, loading and a first call on few rows (which compiles JetNet's kernels)
are not timed. Features are synthetic: correlated, with spreads over three decades, empty-layer spikes, and a generated
sample that is slightly off.

Run: python benchmarks/fpd_kpd.py --jetnet-python jetnet-env/bin/python [--repeats N] [--rows N] [--features N]
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SIDES = ("calo4pqvae", "jetnet")


def synthetic_pair(rows: int, features: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Features of a reference and of a generated sample."""
    generator = np.random.default_rng(seed)
    spreads = np.geomspace(0.3, 3e-4, features)
    mixing = generator.normal(size=(8, features)) * spreads
    samples = []
    for shift, stretch in ((0.0, 1.0), (0.05, 1.02)):
        values = generator.normal(size=(rows, 8)) @ mixing
        values += spreads * (stretch * generator.normal(size=(rows, features)) + shift)
        values[:, ::7] = np.where(generator.random((rows, values[:, ::7].shape[1])) < 0.1, -8.0, values[:, ::7])
        samples.append(values)
    return samples[0], samples[1]


def distances_of(side: str) -> dict[str, Callable[[FloatArray, FloatArray], tuple[float, float]]]:
    """The two distances of one side, as (value, error) of (reference, generated)."""
    if side == "jetnet":
        from jetnet.evaluation import fpd as jetnet_fpd  # type: ignore[import-not-found]
        from jetnet.evaluation import kpd as jetnet_kpd

        return {
            "FPD": lambda reference, generated: jetnet_fpd(reference, generated, min_samples=10_000),
            "KPD": lambda reference, generated: jetnet_kpd(reference, generated, batch_size=10_000),
        }
    from calo4pqvae.evaluation.metrics.frechet import fpd
    from calo4pqvae.evaluation.metrics.kernel_distance import kpd

    def our_fpd(reference: FloatArray, generated: FloatArray) -> tuple[float, float]:
        found = fpd(reference=reference, generated=generated)
        return found.value, found.error

    def our_kpd(reference: FloatArray, generated: FloatArray) -> tuple[float, float]:
        found = kpd(reference=reference, generated=generated)
        return found.value, found.error

    return {"FPD": our_fpd, "KPD": our_kpd}


def work(side: str, folder: Path) -> dict[str, Any]:
    """What a process of one side does: both distances once, timed."""
    warnings.simplefilter("ignore")  # of JetNet, on few rows
    reference, generated = (np.load(folder / f"{name}.npy") for name in ("reference", "generated"))
    packages = ("numpy", "scipy", *(("jetnet", "numba") if side == "jetnet" else ()))
    report: dict[str, Any] = {"versions": {name: importlib.metadata.version(name) for name in packages}}
    for name, distance in distances_of(side).items():
        if name == "KPD":
            distance(reference[:300, :20].copy(), generated[:300, :20].copy())
        start = time.perf_counter()
        value, error = distance(reference, generated)
        report[name] = {"seconds": time.perf_counter() - start, "value": float(value), "error": float(error)}
    return report


def run_side(python: str, side: str, folder: Path) -> dict[str, Any]:
    """Starts a process of one side and returns its report."""
    command = [python, __file__, "--worker", side, "--folder", str(folder)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return report


def show(reports: dict[str, list[dict[str, Any]]]) -> None:
    """Prints values, median times and their ratio."""
    for side in SIDES:
        print(f"{side}: {reports[side][0]['versions']}")
    for name in ("FPD", "KPD"):
        times = {side: statistics.median(report[name]["seconds"] for report in reports[side]) for side in SIDES}
        for side in SIDES:
            found = reports[side][0][name]
            print(f"{name} {side:>10}: {found['value']:.9e} +- {found['error']:.3e}   {times[side]:8.2f} s")
        print(f"{name} is {times['jetnet'] / times['calo4pqvae']:.2f} times as fast as JetNet's")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jetnet-python", help="python of the environment that has jetnet 0.2.5")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=362)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.worker, args.folder)))
        return
    if not args.jetnet_python:
        parser.error("give --jetnet-python; the text above tells how to make the environment")
    pythons = {"calo4pqvae": sys.executable, "jetnet": args.jetnet_python}
    reports: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, sample in zip(
            ("reference", "generated"), synthetic_pair(args.rows, args.features, args.seed), strict=True
        ):
            np.save(folder / f"{part}.npy", sample)
        for _ in range(args.repeats):
            for side in SIDES:
                reports[side].append(run_side(pythons[side], side, folder))
    threads = os.environ.get("OMP_NUM_THREADS", f"all of {os.cpu_count()}")
    print(f"{args.rows} x {args.features}, {args.repeats} repeats, threads: {threads}, {platform.machine()}")
    show(reports)


if __name__ == "__main__":
    main()
