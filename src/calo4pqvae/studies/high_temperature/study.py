r"""The high-temperature gradient: how far the mean energy is from standing in for ln Z, untrained and trained.

Earlier work took :math:`-\langle E \rangle` for :math:`\ln Z` and differentiated it whole. What that adds to the
exact gradient, relative to it, is :math:`\epsilon` (:mod:`~calo4pqvae.studies.theory.epsilon`): one number a parameter,
zero at infinite temperature. Here it is measured for five machines: two partitions of 784 visible and 500 hidden bits
with random parameters; trained on Fashion-MNIST by contrastive divergence, on MNIST by contrastive divergence and by
persistent contrastive divergence; and the four-partite prior of a trained shower model. Chains make 1,000 sweeps, as
in the October 2024 presentation; fewer are looked at on the way, from two starts, and so are other temperatures,
where the exact slope at :math:`\beta \to 0` is drawn beside.

Machines trained by contrastive divergence are known to be out of equilibrium: their chains from coins need not come
to the data within any number of sweeps that one can afford (Decelle, Furtlehner and Seoane, arXiv 2105.13889). Two
starts that disagree say so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.standalone.settings import PriorRunConfig
from calo4pqvae.studies.frame.along_training import Training
from calo4pqvae.studies.frame.study import Findings, Progress, Study, StudyFigure, StudySettings, with_error
from calo4pqvae.studies.frame.trained import image_training, shower_prior, shower_run
from calo4pqvae.studies.high_temperature.figures import effects_figure, histogram_figure, terms_figure
from calo4pqvae.studies.high_temperature.measurements import (
    Case,
    EpsilonPlan,
    Measured,
    image_case,
    measure,
    random_case,
    shower_case,
)
from calo4pqvae.studies.theory.epsilon import EpsilonSummary

__all__ = ["STUDY", "HighTemperatureSettings"]

_AGREES = 3.0  # standard errors
_MET = 2.0  # mean squared difference of the two starts below which they are taken to have met
_TOLD = 2.0  # standard errors beyond which a ratio of lengths is told from noise
_SMALL = 0.1  # epsilon below which the exact gradient dominates


class HighTemperatureSettings(StudySettings):
    """Settings of the study."""

    mnist: str = Field("mnist", description="images: bundled ('mnist'), a folder that was fetched, or a file")
    fashion: str = Field("fashion-mnist", description="images: bundled ('fashion-mnist'), a folder, or a file")
    dataset: str | None = Field(None, description="name of the images in such a file")
    threshold: float | None = Field(None, description="grey value above which a pixel of such a file is one")
    run: str | None = Field(None, description="finished run of a shower model, in place of training one")
    is_short: bool = Field(False, description="whether a short training of the shower model will do")
    n_hidden: int = Field(500, ge=2, description="hidden bits of the machines of images")
    epochs: int = Field(10, ge=1, description="epochs of their trainings")
    batch_size: int = Field(200, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    untrained_std: float = Field(0.01, gt=0, description="spread of all parameters of the untrained machine")
    n_chains: int = Field(1000, ge=100, description="independent chains, each of which gives one state")
    n_energies: int = Field(10, ge=1, description="incident energies of the shower prior; they share the chains")
    sweeps: tuple[int, ...] = Field(
        (10, 100, 1000), min_length=1, description="sweeps after which chains are looked at"
    )
    betas: tuple[float, ...] = Field((0.03, 0.1, 0.3), description="inverse temperatures besides 1")
    beta_sweeps: int = Field(100, ge=1, description="sweeps at these")
    n_bootstrap: int = Field(30, ge=4, description="bootstrap replicas")
    kernel: KernelName = Field("auto", description="kernel of block Gibbs")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.n_chains % self.n_energies or self.n_chains < 2 * self.n_energies:
            raise ValueError(f"n_chains = {self.n_chains} must be a multiple, 2 or more, of n_energies")
        if min(self.sweeps) < 1 or any(not 0 < beta < 1 for beta in self.betas):
            raise ValueError("sweeps must be 1 or more and betas between 0 and 1")
        return self

    @property
    def plan(self) -> EpsilonPlan:
        """How machines are sampled."""
        return EpsilonPlan(
            self.n_chains, sorted(set(self.sweeps)), sorted(set(self.betas)), self.beta_sweeps, self.n_bootstrap,
            self.kernel,
        )  # fmt: skip

    def training(self, data: str, method: Literal["cd", "pcd"], seed: int) -> PriorRunConfig:
        """Settings of a training on images."""
        is_file = Path(data).is_file()
        return PriorRunConfig(
            data=data,
            dataset=self.dataset if is_file else None,
            threshold=self.threshold if is_file else None,
            n_hidden=self.n_hidden,
            method=method,
            learning_rate=self.learning_rate,
            learning_rate_final=self.learning_rate / 10,
            n_chains=self.batch_size,
            batch_size=self.batch_size,
            epochs=self.epochs,
            n_saved=2,
            checkpoint_every=200,
            seed=seed,
        )


def work(settings: HighTemperatureSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    """Does the study."""
    cases, sources, origin = _cases(settings, folder, seed, progress)
    plan, done = settings.plan, 0
    total = sum((1 if case.data is None else 2) * len(plan.sweeps) + len(plan.betas) for case in cases)

    def tell() -> None:
        nonlocal done
        done += 1
        progress("epsilon", done, total)

    measured = [measure(case, plan, seed, tell) for case in cases]
    numbers: dict[str, Any] = {}
    for one, source in zip(measured, sources, strict=True):
        numbers[one.label] = _numbers(one, seed) | {"data": source}
    numbers["origin of the showers"] = origin
    return Findings(numbers, _figures(settings, measured), _text(settings, measured, sources, origin, seed))


def _cases(
    settings: HighTemperatureSettings, folder: Path, seed: int, progress: Progress
) -> tuple[list[Case], list[str], str]:
    """The five machines, what they have learned, and where the showers come from."""
    trainings: dict[str, Training] = {}
    for label, data, method in (
        ("Fashion-MNIST, CD", settings.fashion, "cd"),
        ("MNIST, CD", settings.mnist, "cd"),
        ("MNIST, PCD", settings.mnist, "pcd"),
    ):
        config = settings.training(data, method, seed)  # type: ignore[arg-type]
        trainings[label] = image_training(folder, config, f"training ({label})", progress)
    path = shower_run(folder, settings.run, quick=settings.is_short, seed=seed, progress=progress)
    shower = shower_prior(path)
    cases = [random_case(trainings["MNIST, PCD"].final, settings.untrained_std, seed)]
    cases += [image_case(label, training, settings.n_chains, seed) for label, training in trainings.items()]
    cases.append(shower_case("shower prior", shower, settings.n_chains, settings.n_energies))
    images = [f"{one.data.source}, {one.data.n_states} images" for one in trainings.values()]
    showers = f"{path.name}, {len(shower.bits)} posterior draws at {settings.n_energies} incident energies"
    return cases, ["none", *images, showers], shower.origin


def _figures(settings: HighTemperatureSettings, measured: Sequence[Measured]) -> list[StudyFigure]:
    plan = settings.plan
    return [
        StudyFigure(
            "epsilon",
            f"Epsilon of every parameter of five machines, from {plan.n_chains} independent chains of "
            f"{plan.sweeps[-1]} block Gibbs sweeps from fair coins at beta = 1; one entry a parameter whose "
            "denominator is larger than three of its errors. What lies outside is counted in the outermost bins. Bar: "
            "median bootstrap error of one ratio of the couplings.",
            lambda: histogram_figure(measured),
        ),
        StudyFigure(
            "effects",
            "Length of the vector of covariances relative to that of the exact gradient, couplings. Left: against the "
            "number of sweeps, from fair coins (filled) and from the data (open). Right: against the inverse "
            f"temperature, {plan.beta_sweeps} sweeps below beta = 1, with the exact slope at infinite temperature "
            "(lines). Bars: bootstrap standard errors. The variance that noise adds is taken off.",
            lambda: effects_figure(measured),
        ),
        StudyFigure(
            "terms",
            "The two terms of the derivative of the mean energy for every coupling: number of couplings at a "
            "covariance and a mean, with lines of equal epsilon and the median bootstrap error of the covariance.",
            lambda: terms_figure(measured),
        ),
    ]


def _numbers(case: Measured, seed: int) -> dict[str, Any]:
    last = max(case.by_sweeps["coins"])
    told: dict[str, Any] = {
        name: part.as_data(seed) | {"median_error_of_one": _median_error(case, name)}
        for name, part in case.by_sweeps["coins"][last].items()
    }
    told["ratio of lengths against sweeps"] = {
        f"from {kind}": {str(n): _lengths(parts, seed) for n, parts in by_sweeps.items()}
        for kind, by_sweeps in case.by_sweeps.items()
    }
    told["ratio of lengths against beta"] = {
        f"{beta:g}": _lengths(parts, seed) for beta, parts in sorted(case.by_beta.items())
    }
    told["mean squared difference of bits from two starts"] = case.starts_apart
    told["mean of free bits, model and data"] = None if case.ones is None else list(case.ones)
    told["slope in beta at infinite temperature, exact"] = dict(case.slopes)
    return told


def _lengths(parts: Mapping[str, EpsilonSummary], seed: int) -> dict[str, Any]:
    return {name: part.as_data(seed)["norm_ratio"] for name, part in parts.items()}


def _median_error(case: Measured, name: str) -> float | None:
    """Median error of one ratio of a kind; None where no denominator is beyond noise."""
    places = case.groups[name]
    errors = case.epsilon.error[places[case.epsilon.resolved()[places]]]
    return float(np.median(errors)) if len(errors) else None


def _text(
    settings: HighTemperatureSettings, measured: Sequence[Measured], sources: Sequence[str], origin: str, seed: int
) -> list[str]:
    paragraphs = [_case_text(settings, case, source, seed) for case, source in zip(measured, sources, strict=True)]
    paragraphs.append(_sweeps_text(settings, measured, seed))
    return [*paragraphs, _beta_text(measured, seed), f"Showers: {origin}"]


def _case_text(settings: HighTemperatureSettings, case: Measured, source: str, seed: int) -> str:
    last = max(case.by_sweeps["coins"])
    parts = []
    for name, summary in case.by_sweeps["coins"][last].items():
        data = summary.as_data(seed)
        parts.append(
            f"{name} median {with_error(data['median'])}, 5-95 % from {with_error(data['q05'])} to "
            f"{with_error(data['q95'])}, ratio of lengths {with_error(data['norm_ratio'])} "
            f"({100 * data['share_left_out']:.1f} % of {data['n_parameters']} left out)"
        )
    noise = _median_error(case, "couplings")
    told = "no number" if noise is None else f"{noise:.2g}"
    couplings = case.by_sweeps["coins"][last]["couplings"].as_data(seed)
    size, error = couplings["norm_ratio"]["value"], couplings["norm_ratio"]["error"]
    verdict = "cannot be told from noise"
    if size is not None and error is not None and size > _TOLD * error:
        verdict = f"is {'small' if size < _SMALL else 'not small'} beside the exact gradient"
    origin = "" if source == "none" else f" ({source})"
    return (
        f"{case.label}{origin}, {last} sweeps from coins, {settings.n_chains} chains: {'; '.join(parts)}. One ratio of "
        f"a coupling has an error of {told} (median), which widens the range, but not the ratio of lengths. The "
        f"covariance of the couplings {verdict}."
    )


def _sweeps_text(settings: HighTemperatureSettings, measured: Sequence[Measured], seed: int) -> str:
    """What the number of sweeps does, and whether the two starts meet."""
    parts = []
    for case in measured:
        if case.starts_apart is None or case.ones is None:
            continue
        coins, data = (
            {n: parts["couplings"].as_data(seed)["norm_ratio"] for n, parts in case.by_sweeps[kind].items()}
            for kind in ("coins", "data")
        )
        first, last = min(coins), max(coins)
        text = (
            f"{case.label}: {with_error(coins[first])} after {first} and {with_error(coins[last])} after {last} sweeps "
            f"from coins, after as many {with_error(data[last])} from the data; means of bits from the two starts "
            f"differ by a mean square of {case.starts_apart:.2g} errors"
        )
        text += " (they meet)" if case.starts_apart < _MET else " (they have not met)"
        parts.append(f"{text}; {case.ones[0]:.3f} of the bits are one, {case.ones[1]:.3f} at the data")
    return (
        f"Number of sweeps, ratio of lengths of the couplings: {'; '.join(parts)}. Where the starts have not met, "
        f"chains have not forgotten theirs within {settings.plan.sweeps[-1]} sweeps, and epsilon belongs to the "
        "procedure, not to the law of the machine; where they meet far from the data, the law is not that of the data."
    )


def _beta_text(measured: Sequence[Measured], seed: int) -> str:
    """The line epsilon -> 0 as beta -> 0."""
    parts, n_agree, n_told = [], 0, 0
    for case in measured:
        beta = min(case.by_beta)
        found = case.by_beta[beta]["couplings"].as_data(seed)["norm_ratio"]
        expected = beta * case.slopes["couplings"]
        parts.append(f"{case.label} {with_error(found)} against {expected:.4g}")
        if found["value"] is not None and found["error"] is not None:
            n_told += 1
            n_agree += abs(found["value"] - expected) < _AGREES * found["error"]
    lowest = min(min(case.by_beta) for case in measured)
    return (
        f"Temperature: at beta = {lowest:g} the ratio of lengths of the couplings is, beside that of the exact line "
        f"through zero with the slope at infinite temperature, {'; '.join(parts)}: {n_agree} of {n_told} agree within "
        f"{_AGREES:g} standard errors."
    )


STUDY = Study(
    name="high-temperature",
    title="The high-temperature gradient: epsilon of every parameter, untrained and trained",
    settings=HighTemperatureSettings,
    work=work,
    quick={
        "is_short": True,
        "n_hidden": 100,
        "epochs": 30,
        "batch_size": 100,
        "n_chains": 500,
        "sweeps": (10, 100, 300),
        "betas": (0.03, 0.1, 0.3),
        "beta_sweeps": 50,
        "n_bootstrap": 20,
    },
)
