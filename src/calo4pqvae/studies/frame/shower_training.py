r"""The machine of a trained shower model along its training, and as a machine of its own at one incident energy.

A run of a shower model keeps its machine at the end only, but also the posterior bits that the machine has learned, and
all random streams have names. So the machine can be learned again, step by step, with machines kept on the way; the end
is the machine of the run, which is checked.

At a given incident energy the bits of its code are constants. The others form a machine on the rest of the graph with

.. math:: b_i' = b_i + \sum_a c_a A_{ai} + \sum_{j \text{ held}} W_{ij} z_j ,

whose law is that of the bits that are drawn at this energy.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.loops import start_machine
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.learning.learner import LearningSettings, PriorLearner
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.seeds import stream
from calo4pqvae.studies.frame.study import Progress
from calo4pqvae.studies.frame.trained import ShowerPrior

__all__ = ["ShowerTraining", "held_machine", "shower_training"]

_SMOOTHING = 0.01  # of the means that the biases start at, as in the training of a shower model


@dataclass(frozen=True)
class ShowerTraining:
    """Machines along the training of a shower model's prior.

    Args:
        steps: Learning steps of each machine, rising from 0.
        machines: The machines on the whole graph.
        source: The shower model.
        deviation: Largest difference of a coupling between the last machine and that of the run; 0 if the run's
            machine started from nothing and was learned on the same kind of processor.
    """

    steps: tuple[int, ...]
    machines: tuple[BoltzmannMachine, ...]
    source: ShowerPrior
    deviation: float

    @property
    def energy_mev(self) -> float:
        """Geometric middle of the range of incident energies."""
        data = self.source.model.config.data
        return math.sqrt(data.energy_min_mev * data.energy_max_mev)

    def at_energy(self, energy_mev: float) -> tuple[BoltzmannMachine, ...]:
        """The machines of the free bits at an incident energy."""
        prior = self.source.model.prior
        energies = torch.tensor([[energy_mev]])
        state = prior.states(torch.zeros(1, prior.n_bits), energies)[0]
        condition = prior.condition(energies)
        row = None if condition is None else condition[0]
        return tuple(held_machine(machine, prior.clamped, state, row) for machine in self.machines)


def shower_training(source: ShowerPrior, n_saved: int, stage: str, progress: Progress) -> ShowerTraining:
    """Learns the machine of a shower model again and keeps machines at steps in geometric order.

    Args:
        source: The shower model and its posterior bits.
        n_saved: Machines to keep besides the one at the start.
        stage: Name of the stage for the progress report.
        progress: Told about every step.

    Raises:
        PriorError: If a parameter leaves finite values.
    """
    config = source.model.config
    prior = LatentPrior(config, source.machine.topology)
    learner = _learner(prior, source)
    start_machine(config, prior, source.bits, source.incident_energies)
    updates, seed = config.prior.updates, config.training.seed
    saved = set(np.unique(np.geomspace(1, updates, n_saved).round().astype(int)).tolist())
    kept = {0: _copied(prior.machine)}
    bits, energies = source.bits, source.incident_energies
    while learner.n_done < updates:
        size = min(config.prior.batch_size, len(bits))
        rows = torch.randint(len(bits), (size,), generator=stream(seed, "prior", learner.n_done))
        learner.step(prior.states(bits[rows], energies[rows]), prior.condition(energies[rows]))
        if learner.n_done in saved:
            kept[learner.n_done] = _copied(prior.machine)
        progress(stage, learner.n_done, updates)
    change = prior.machine.couplings.detach() - source.machine.couplings.detach()
    return ShowerTraining(tuple(kept), tuple(kept.values()), source, float(change.abs().max()))


@torch.no_grad()
def held_machine(
    machine: BoltzmannMachine, clamped: NDArray[np.bool_], state: Tensor, condition: Tensor | None = None
) -> BoltzmannMachine:
    """The machine of the free bits, with held bits and a condition taken into its biases.

    Args:
        machine: The machine.
        clamped: Mask (N,) of the bits to hold; at least one bit stays free.
        state: Bits (N,); those under the mask are used.
        condition: c, shape (n_c,), if the machine has one.
    """
    topology, free = machine.topology, ~clamped
    held = torch.from_numpy(clamped)
    fields = machine.local_fields((state * held)[None], None if condition is None else condition[None])[0]
    place = np.cumsum(free) - 1
    inside = free[topology.edges].all(axis=1)
    sizes = tuple(int(free[nodes].sum()) for nodes in topology.slices)
    labels = tuple(np.array(topology.node_labels)[free].tolist())
    rest = Topology(
        f"{topology.name}, held", tuple(size for size in sizes if size), place[topology.edges[inside]], labels
    )
    smaller = BoltzmannMachine(rest)  # edges keep their order: they are sorted, and places rise with nodes
    smaller.biases.copy_(fields[torch.from_numpy(free)])
    smaller.couplings.copy_(machine.couplings[torch.from_numpy(inside)])
    return smaller


def _learner(prior: LatentPrior, source: ShowerPrior) -> PriorLearner:
    """The learner of the run at its start."""
    config = source.model.config.prior
    seed = source.model.config.training.seed
    held = torch.full((prior.machine.n_nodes - prior.n_bits,), 0.5)
    means = torch.cat([held, source.bits.mean(0)])
    prior.machine.initialise(means, config.coupling_std, stream(seed, "couplings"), smoothing=_SMOOTHING)
    settings = LearningSettings(
        learning_rate=config.learning_rate,
        learning_rate_final=config.learning_rate_final,
        n_sweeps=config.n_sweeps,
        n_chains=config.n_chains,
        method=config.method,
        gradient=config.gradient,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
    )
    return PriorLearner(
        prior.machine,
        settings,
        stream(seed, "chains"),
        prior.clamped,
        n_steps=config.updates,
        sampler=prior.sampler,
    )


def _copied(machine: BoltzmannMachine) -> BoltzmannMachine:
    copy = BoltzmannMachine(machine.topology, machine.n_condition)
    copy.load_state_dict(machine.state_dict())
    return copy
