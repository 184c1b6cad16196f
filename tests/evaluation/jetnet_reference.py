"""Reference values of JetNet 0.2.5 and the samples that they belong to, made by tools/make_jetnet_reference.py."""

import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from calo4pqvae.evaluation.features.highlevel import feature_vector, file_highlevel_features
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.geometry import geometry

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).parent / "reference" / "jetnet_values.json"

Samples = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class JetnetValue:
    settings: dict[str, int]
    seed: int
    value: float
    error: float


def jetnet_value(name: str) -> JetnetValue:
    found = json.loads(FILE.read_text(encoding="utf-8"))["values"][name]
    return JetnetValue(found["settings"], found["seed"], found["value"], found["error"])


@cache
def synthetic_samples() -> Samples:
    """By the recipe of the tool itself; the sums in the file tell whether numpy still draws the same numbers."""
    spec = importlib.util.spec_from_file_location("make_jetnet_reference", ROOT / "tools" / "make_jetnet_reference.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return checked("synthetic", tool.synthetic_samples())


@cache
def same_law_samples() -> Samples:
    first, _ = synthetic_samples()
    return first[:6000], first[6000:]


@cache
def bundled_samples() -> Samples:
    held_out, train = (
        feature_vector(file_highlevel_features(bundled_path(part), geometry("ds2"))) for part in ("heldout", "train")
    )
    return checked("bundled", (held_out, train))


def checked(name: str, samples: Samples) -> Samples:
    sums = json.loads(FILE.read_text(encoding="utf-8"))["sums_of_features"][name]
    np.testing.assert_allclose([sample.sum() for sample in samples], sums, rtol=1e-10)
    return samples
