"""The training log by name, with units, and the sentence on overfitting."""

import numpy as np
import pytest

from calo4pqvae.evaluation.pages.training import training_curves
from calo4pqvae.evaluation.pages.verdict import overfitting

ROWS: list[dict[str, object]] = [
    {
        "stage": "networks",
        "epoch": k,
        "train": {"hits": 600.0 - k, "information": 20.0},
        "validation": {"hits": 605.0 - k, "information": 19.0},
        "quality": {"occupancy": 0.1 / (k + 1)},
        "note": "x",
    }
    for k in range(3)
]
ROWS += [
    {"stage": "prior", "update": 50 * k, "gap": 1.0 / (k + 1), "gap_error": 0.1, "own_thing": 2.0, "n_model": 60}
    for k in range(1, 4)
]
ROWS += [{"stage": "export", "information": 20.0}]


def test_quantities_have_names_units_and_groups() -> None:
    figures = dict(training_curves(ROWS))
    assert list(figures) == ["networks", "prior"]  # a single line is no curve
    panels = {axes.get_title(): axes for axes in figures["networks"].axes}
    hits = panels["which voxels are hit"]
    assert hits.get_ylabel() == "-ln p [nats a shower]"
    assert hits.get_xlabel() == "epoch"
    lines = {line.get_label(): line.get_xydata() for line in hits.lines}
    np.testing.assert_allclose(lines["train"], [[0, 600.0], [1, 599.0], [2, 598.0]])
    np.testing.assert_allclose(lines["validation"][:, 1], [605.0, 604.0, 603.0])
    assert set(panels) == {"which voxels are hit", "latent bits", "decoded against true validation showers"}
    panels = {axes.get_title(): axes for axes in figures["prior"].axes}
    assert set(panels) == {"energy, showers - chains", "own thing"}
    np.testing.assert_allclose(panels["own thing"].lines[0].get_xdata(), [50, 100, 150])
    assert panels["own thing"].get_xlabel() == "update of the prior"
    assert panels["energy, showers - chains"].get_ylabel() == "nats"


@pytest.mark.parametrize(("last", "told"), [(603.0, "no sign of"), (640.0, "36.0 nats worse than in epoch 2")])
def test_overfitting_is_said(last: float, told: str) -> None:
    rows = [
        {
            "stage": "networks",
            "train": {"hits": 600.0 - k, "entropy": 1e6},
            "validation": {"hits": nats, "entropy": 0.0},
        }
        for k, nats in enumerate((605.0, 604.0, last))
    ]
    [sentence] = overfitting(rows)
    assert told in sentence
    assert f"598.0 nats a shower on training showers, {last:,.1f} on validation" in sentence
    assert overfitting([{"stage": "prior", "gap": 1.0}]) == []
