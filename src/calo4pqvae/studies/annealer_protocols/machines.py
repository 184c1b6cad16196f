r"""Machines of the protocol study: trained and random couplings, on either family of chips, and an emulator for each.

**Model A** is the machine of a trained shower model. On the family of chips that the model was not trained on, a
machine with levels of the same sizes is learned from the exported posterior bits of the same networks, with the same
settings.

**Model B** has couplings that are independent Gaussian draws and never move, and biases that are learned. Public
codes of four-partite models before 2025 wrote masked couplings back into their own parameters, so that the optimiser
no longer knew them: their couplings stayed what they were drawn as, :math:`N(0, 1)`, while the biases were trained.
Temperatures and energy histograms that were published with them are then those of such a machine (inferred, not
stated). The biases follow the plain gradient :math:`\langle z_i \rangle_{data} - \langle z_i \rangle_{model}`.

The emulated chip has no missing parts. It is as large as the graph on which the machine has its patch, or, for copies
side by side, as large as the chip.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.chip.table import chip
from calo4pqvae.annealer.emulator.settings import EmulatorMode
from calo4pqvae.annealer.placing.tiles import chip_of
from calo4pqvae.annealer.protocols.conditioning import Method
from calo4pqvae.annealer.protocols.run import Conditioning
from calo4pqvae.errors import ConfigError
from calo4pqvae.models.qvae.latent_prior import LatentPrior, build_topology
from calo4pqvae.prior.graph.chips import Family
from calo4pqvae.prior.learning.learner import LearningSettings, PriorLearner
from calo4pqvae.seeds import stream
from calo4pqvae.studies.frame.shower_training import shower_training
from calo4pqvae.studies.frame.study import Progress
from calo4pqvae.studies.frame.trained import ShowerPrior

__all__ = ["CHIP_OF", "ModelName", "StudyMachine", "study_machine"]

ModelName = Literal["A", "B"]
CHIP_OF: dict[Family, str] = {"pegasus": "advantage4", "zephyr": "advantage2"}
"""The emulated chip of each family."""

_FIELD_RATE = 0.2  # of the biases of Model B
_FIELD_SWEEPS = 20
_FIELD_CHAINS = 1000
_FIELD_BATCH = 2000
_GAP_SWEEPS = 300


@dataclass(frozen=True, eq=False)
class StudyMachine:
    """A machine of the study.

    Args:
        model: ``"A"``, trained couplings, or ``"B"``, random ones.
        family: Family of chips.
        prior: The machine with its energy code.
        origin: One sentence on how it came about.
        gap: Mean energy of unseen posterior bits less that of the machine's own states, in nats.
        gap_error: Its standard error.
        gap_n: Unseen showers.
    """

    model: ModelName
    family: Family
    prior: LatentPrior
    origin: str
    gap: float
    gap_error: float
    gap_n: int

    @property
    def name(self) -> str:
        """Model and family."""
        return f"Model {self.model}, {self.family.capitalize()}"

    def conditioning(self, method: Method) -> Conditioning:
        """How conditions are imposed: on partition 0, or in the fields if the machine has it so."""
        return Conditioning(method, 0 if self.prior.is_clamped else None)

    def annealer(self, mode: EmulatorMode, seed: int, *, is_full: bool = False) -> Annealer:
        """A new emulated chip without missing parts.

        Args:
            mode: Mode of the emulator.
            seed: Its seed.
            is_full: Whether it has the size of the chip, with room for copies; else that of the machine's own graph.
        """
        size = chip(CHIP_OF[self.family]).m if is_full else chip_of(self.prior.topology)[1]
        name = f"emulator:{CHIP_OF[self.family]}:{size}:whole"
        return open_annealer(name, seed=seed, mode=mode, kernel="packed")


def study_machine(
    shower: ShowerPrior,
    model: ModelName,
    family: Family,
    *,
    random_std: float,
    updates: int | None,
    field_updates: int,
    seed: int,
    progress: Progress,
) -> StudyMachine:
    """The machine of a model on a family of chips.

    Args:
        shower: The trained shower model and its posterior bits.
        model: ``"A"`` or ``"B"``.
        family: Family of chips.
        random_std: Standard deviation of the couplings of Model B.
        updates: Learning steps of a machine of Model A on the other family; those of the run if None.
        field_updates: Learning steps of the biases of Model B.
        seed: Seed of what is drawn and learned for Model B; Model A has the seed of its run.
        progress: Told about every step.

    Raises:
        ConfigError: If the family cannot carry levels of the sizes of the model.
        PriorError: If no chip is large enough.
    """
    source = shower if shower.machine.topology.name.startswith(family) else _on_other_chip(shower, family, updates)
    if model == "B":
        prior = LatentPrior(source.model.config, source.machine.topology)
        _learn_fields(prior, source, random_std, field_updates, seed, progress)
        origin = f"couplings drawn from N(0, {random_std:g}^2), biases learned in {field_updates} steps"
    elif source is shower:
        prior, origin = shower.model.prior, f"machine of the run {shower.path.name}"
    else:
        training = shower_training(source, 2, f"learning on {source.machine.topology.name}", progress)
        prior = source.model.prior
        prior.machine.load_state_dict(training.machines[-1].state_dict())
        origin = f"learned from the posterior bits of the run {shower.path.name} in {training.steps[-1]} steps"
    return StudyMachine(model, family, prior, origin, *_energy_gap(prior, shower, seed))


def _on_other_chip(shower: ShowerPrior, family: Family, updates: int | None) -> ShowerPrior:
    """The same networks and bits with an untrained machine on a patch of the other family.

    Raises:
        ConfigError: If that has no levels of these sizes.
    """
    model, levels = shower.model, shower.model.prior.level_sizes
    if len(set(levels)) != 1:
        raise ConfigError(f"levels of {levels} bits cannot be put on another chip; use a run whose levels are equal")
    changes: dict[str, Any] = {"prior.graph": family, "prior.whole_chip": False, "latent.bits_per_level": levels[0]}
    if updates is not None:
        changes["prior.updates"] = updates
    own = model.config.prior.model_copy(update={"size": None, "missing": None})
    config = model.config.model_copy(update={"prior": own}).replace(changes)
    prior = LatentPrior(config, build_topology(config))
    if prior.level_sizes != levels:
        raise ConfigError(
            f"{prior.topology.name} has levels of {prior.level_sizes} bits, the networks of {levels}; use another run"
        )
    return replace(shower, model=replace(model, config=config, prior=prior))


def _learn_fields(
    prior: LatentPrior, shower: ShowerPrior, std: float, n_updates: int, seed: int, progress: Progress
) -> None:
    """Draws couplings and learns the biases alone."""
    name = f"fields on {prior.topology.name}"
    machine = prior.machine
    machine.initialise(torch.full((machine.n_nodes,), 0.5), std, stream(seed, name, "couplings"))
    couplings = machine.couplings.detach().clone()
    settings = LearningSettings(
        learning_rate=_FIELD_RATE, n_sweeps=_FIELD_SWEEPS, n_chains=_FIELD_CHAINS, gradient="plain"
    )
    learner = PriorLearner(machine, settings, stream(seed, name, "chains"), prior.clamped, sampler=prior.sampler)
    n_rows = min(_FIELD_BATCH, len(shower.bits))
    for step in range(n_updates):
        rows = torch.randint(len(shower.bits), (n_rows,), generator=stream(seed, name, step))
        energies = shower.incident_energies[rows]
        learner.step(prior.states(shower.bits[rows], energies), prior.condition(energies))
        with torch.no_grad():
            machine.couplings.copy_(couplings)
        progress(name, step + 1, n_updates)


@torch.no_grad()
def _energy_gap(prior: LatentPrior, shower: ShowerPrior, seed: int) -> tuple[float, float, int]:
    """Mean energy of unseen posterior bits less that of the machine's own and its error, in nats, and their number."""
    energies = shower.validation_energies
    drawn = prior.sample(energies, _GAP_SWEEPS, stream(seed, "gap", prior.topology.name))
    gaps = prior.energy(shower.validation_bits, energies) - prior.energy(drawn, energies)
    return float(gaps.mean()), float(gaps.std()) / math.sqrt(len(gaps)), len(gaps)
