#!/usr/bin/env python3
"""Makes the reference values of FPD and KPD that the tests compare with: JetNet 0.2.5 on features that can be remade.

Synthetic features come from a seed by numpy's Generator, element by element, so that they are the same everywhere;
those of the bundled showers are the challenge's 362. JetNet needs older packages than this project, so run this in an
environment of its own, from the root of the project:

    python -m venv jetnet-env
    jetnet-env/bin/pip install "jetnet==0.2.5" "numpy<2" "pyarrow<21" h5py
    jetnet-env/bin/pip install --no-deps -e .
    jetnet-env/bin/python tools/make_jetnet_reference.py tests/evaluation/reference/jetnet_values.json

Usage: python tools/make_jetnet_reference.py OUT.json
"""

import argparse
import importlib.metadata
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

SYNTHETIC_SHAPE = (12_000, 30)
SYNTHETIC_SEED = 7
SEED = 42
SMALL_FPD = {"min_samples": 1000, "max_samples": 5000, "num_points": 10, "num_batches": 5}
SMALL_KPD = {"batch_size": 1000, "num_batches": 10}
CHALLENGE_FPD = {"min_samples": 10_000, "max_samples": 50_000, "num_points": 10, "num_batches": 20}
CHALLENGE_KPD = {"batch_size": 10_000, "num_batches": 10}
LIBRARY_FPD = CHALLENGE_FPD | {"min_samples": 20_000}
LIBRARY_KPD = CHALLENGE_KPD | {"batch_size": 5000}


def synthetic_samples() -> tuple[FloatArray, FloatArray]:
    """A reference and a sample that differs in means, spreads and correlations; one feature is zero throughout."""
    generator = np.random.default_rng(SYNTHETIC_SEED)
    rows, width = SYNTHETIC_SHAPE
    spreads = np.geomspace(2.0, 0.01, width)
    samples = []
    for shift, link in ((0.0, 0.5), (0.04, 0.6)):
        values = generator.standard_normal((rows, width + 1))
        mixed = spreads * (values[:, :-1] + link * values[:, 1:] + shift) + np.linspace(-3.0, 3.0, width)
        mixed[:, 4] = np.where(generator.random(rows) < 0.1, -8.0, mixed[:, 4])
        mixed[:, 9] = 0.0
        samples.append(mixed)
    return samples[0], samples[1]


def bundled_samples() -> tuple[FloatArray, FloatArray]:
    """The 362 features of the bundled showers: held out as reference, training showers as sample."""
    from calo4pqvae.evaluation.features.highlevel import feature_vector, file_highlevel_features
    from calo4pqvae.showers.bundled import bundled_path
    from calo4pqvae.showers.geometry import geometry

    held_out, train = (
        feature_vector(file_highlevel_features(path, geometry("ds2")))
        for path in (bundled_path("heldout"), bundled_path("train"))
    )
    return held_out, train


def jetnet_value(metric: str, samples: tuple[FloatArray, FloatArray], settings: dict[str, int]) -> dict[str, Any]:
    """Value and error of one metric, with what they depend on."""
    from jetnet import evaluation  # type: ignore[import-not-found]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are fewer than 50,000 showers, which the tests know
        value, error = getattr(evaluation, metric)(*samples, seed=SEED, **settings)
    return {
        "metric": metric,
        "settings": settings,
        "seed": SEED,
        "n_reference": len(samples[0]),
        "n_generated": len(samples[1]),
        "n_features": samples[0].shape[1],
        "value": float(value),
        "error": float(error),
    }


def main() -> None:
    """Computes all reference values and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    synthetic, bundled = synthetic_samples(), bundled_samples()
    values = {
        "synthetic_fpd": jetnet_value("fpd", synthetic, SMALL_FPD),
        "synthetic_kpd": jetnet_value("kpd", synthetic, SMALL_KPD),
        "synthetic_same_law_fpd": jetnet_value("fpd", (synthetic[0][:6000], synthetic[0][6000:]), SMALL_FPD),
        "synthetic_same_law_kpd": jetnet_value("kpd", (synthetic[0][:6000], synthetic[0][6000:]), SMALL_KPD),
        "bundled_fpd": jetnet_value("fpd", bundled, CHALLENGE_FPD),
        "bundled_kpd": jetnet_value("kpd", bundled, CHALLENGE_KPD),
        "bundled_library_fpd": jetnet_value("fpd", bundled, LIBRARY_FPD),
        "bundled_library_kpd": jetnet_value("kpd", bundled, LIBRARY_KPD),
    }
    versions = {name: importlib.metadata.version(name) for name in ("jetnet", "numpy", "scipy", "numba")}
    sums = {
        "synthetic": [float(sample.sum()) for sample in synthetic],
        "bundled": [float(sample.sum()) for sample in bundled],
    }
    text = json.dumps({"versions": versions, "sums_of_features": sums, "values": values}, indent=2)
    out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
