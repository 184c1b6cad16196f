"""The verdict in words: whether the showers can be told from Geant4, by what, and whether the training overfitted."""

from collections.abc import Mapping, Sequence

import numpy as np

from calo4pqvae.evaluation.result import Evaluation, RefereeRow

__all__ = ["overfitting", "verdict"]

_TOLD_APART = 3.0  # standard errors
_NOT_LIKELIHOODS = ("entropy", "information", "prior_energy")
_RISE = 0.002  # of the validation nats since their best


def verdict(found: Evaluation) -> list[str]:
    """Sentences on the main sample, the most important first."""
    sample, sizes = found.samples[found.main], found.sizes
    table = sample.acceptance
    opening = f"{sizes[found.main]:,} showers of {found.main} against {sizes['Geant4']:,} Geant4 showers"
    failed = sorted({f"{row.family} ({row.third})" for row in table.rows if not row.passed})
    if failed:
        count = f"{table.n_passed} of {len(table.rows)} checks of the acceptance table pass"
        acceptance = f"{count}; not passed: {', '.join(failed)}."
    else:
        acceptance = f"all {len(table.rows)} checks of the acceptance table pass."
    return [f"{opening}: {acceptance}", _judged(sample.rows), *_farthest(sample.rows)]


def overfitting(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Sentences on train against validation nats, one for each stage of a training log that has both.

    Args:
        rows: Lines of the log; those with mappings "train" and "validation" count.
    """
    stages: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        train, validation = row.get("train"), row.get("validation")
        if isinstance(train, Mapping) and isinstance(validation, Mapping):
            terms = [term for term in train if term in validation and term not in _NOT_LIKELIHOODS]
            both = [float(sum(side[term] for term in terms)) for side in (train, validation)]
            stages.setdefault(str(row.get("stage", "training")), []).append((both[0], both[1]))
    return [_stage_sentence(stage, np.array(nats)) for stage, nats in stages.items()]


def _stage_sentence(stage: str, nats: np.ndarray) -> str:
    train, validation = nats[-1]
    best = int(nats[:, 1].argmin())
    text = (
        f"Training ({stage}): {train:,.1f} nats a shower on training showers, {validation:,.1f} on validation showers "
        f"in the last of {len(nats)} epochs"
    )
    rise = validation - nats[best, 1]
    if rise > _RISE * abs(nats[best, 1]):
        return f"{text}; validation is {rise:.1f} nats worse than in epoch {best + 1}: the training overfits."
    return f"{text}; validation has not risen: no sign of overfitting."


def _judged(rows: Sequence[RefereeRow]) -> str:
    """What the classifiers say."""
    judges = [row for row in rows if row.metric.needs == "classifier" and row.matched and row.floor]
    if not judges:
        return (
            "No classifier looked at them, so that it is not known whether one can tell them from Geant4 "
            "(--classifiers quick,hard)."
        )
    best = max(judges, key=lambda row: row.matched.value if row.matched else 0.0)
    one, low = best.matched, best.floor
    if one is None or low is None:
        raise ValueError("a judge without a floor was kept")
    name = best.label.removeprefix("AUC, ")
    numbers = f"AUC {one} at {one.n:,} showers a side, where Geant4 against itself gives {low}"
    if one.value - low.value < _TOLD_APART * np.hypot(one.error, low.error):
        return f"No classifier tells them from Geant4; the sharpest is the {name}: {numbers}."
    return f"The {name} tells them from Geant4: {numbers}; 0.5 is chance, 1 is certainty."


def _farthest(rows: Sequence[RefereeRow]) -> list[str]:
    """The metric that is farthest above its floor."""
    judged = [row for row in rows if np.isfinite(row.excess) and row.metric.group != "prdc"]
    if not judged:
        return []
    worst = max(judged, key=lambda row: row.excess)
    size = worst.floor.n if worst.floor else 0
    return [f"Farthest from Geant4: {worst.label}, {worst.excess:.3g} times its floor at {size:,} showers a side."]
