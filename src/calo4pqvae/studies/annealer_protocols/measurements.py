r"""What the protocol study measures: how far samples of a protocol are from the law of the machine, and what they cost.

All protocols draw the same showers: incident energies of held-out Geant4 showers, grouped by the condition that they
give, on an emulated chip of the same seed; ``tiled`` has the full graph of that chip for its copies. The emulator tells
afterwards at which inverse temperature every programming was in truth.

- **beta**: root mean square over samples of :math:`\ln(\beta_\mathrm{true} / \beta)`, once with what the machine was
  divided by (the samples are drawn at that ratio) and once with what the protocol takes beta to be;
- **energy**: mean machine energy less that of a large classical sample under the same conditions, in nats;
- **moments**: root mean square over couplers of the difference of :math:`\langle z_i z_j \rangle` from that sample;
- **FPD**: Fréchet distance of the challenge's features between decoded showers and Geant4, at this number of showers
  and without extrapolation.

Differences of finite samples are never zero. The floor is a classical sample of the same number of showers under the
same conditions with the same decoder noise, and for the distance also Geant4 showers of the training set.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.emulator.settings import EmulatorMode
from calo4pqvae.annealer.protocols.base import Protocol
from calo4pqvae.annealer.protocols.polish import polish
from calo4pqvae.annealer.protocols.run import ProtocolResult
from calo4pqvae.annealer.protocols.tiled import Tiled
from calo4pqvae.errors import AnnealerError, ConfigError
from calo4pqvae.evaluation.features.highlevel import feature_names, feature_vector, highlevel_features
from calo4pqvae.evaluation.metrics.frechet import feature_contributions
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.trained import TrainedModel
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.studies.annealer_protocols.machines import StudyMachine
from calo4pqvae.workshop.data import resolve_file, training_grid

__all__ = [
    "Errors",
    "Geant4",
    "Measured",
    "ProtocolJudge",
    "Requests",
    "Truth",
    "classical",
    "geant4_showers",
    "measure",
    "requests_of",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_DECODE_CHUNK = 500


@dataclass(frozen=True, eq=False)
class Geant4:
    """Geant4 showers that generated ones are held against.

    Args:
        energies: Incident energies of held-out showers in MeV, (n, 1).
        features: Their features, (n, F).
        other: Features of showers of the training set, for a floor, (m, F).
        other_energies: Their incident energies in MeV, (m, 1).
        names: Names of the features.
        origin: One sentence on where they come from.
    """

    energies: Tensor
    features: FloatArray
    other: FloatArray
    other_energies: Tensor
    names: tuple[str, ...]
    origin: str

    def at(self, prior: LatentPrior, conditions: FloatArray) -> "Geant4":
        """Only the held-out showers whose energy gives one of the conditions (C, n_c)."""
        code = prior.code.encode(self.energies).numpy()
        chosen = (code[:, None] == conditions).all(axis=2).any(axis=1)
        return replace(self, energies=self.energies[torch.from_numpy(chosen)], features=self.features[chosen])

    def distance(self, features: FloatArray) -> float:
        """Fréchet distance of features (k, F) from those of all held-out showers."""
        return feature_contributions(reference=self.features, generated=features, names=self.names).total


@dataclass(frozen=True, eq=False)
class Requests:
    """Showers that are asked for, sorted by condition.

    Args:
        conditions: One row a condition, (C, n_c).
        counts: Showers of each, (C,).
        energies: Incident energies in MeV, (n, 1).
    """

    conditions: FloatArray
    counts: IntArray
    energies: Tensor

    @property
    def n(self) -> int:
        """Showers."""
        return len(self.energies)

    def thinned(self, n: int) -> "Requests":
        """Fewer of the requests, evenly over the energies; all if there are no more."""
        rows = np.unique(np.linspace(0, self.n - 1, min(n, self.n)).round().astype(int))
        kept, counts = np.unique(np.repeat(np.arange(len(self.counts)), self.counts)[rows], return_counts=True)
        return Requests(self.conditions[kept], counts.astype(np.int64), self.energies[torch.from_numpy(rows)])


@dataclass(frozen=True, eq=False)
class Truth:
    """A large classical sample under the conditions of the requests.

    Args:
        energy: Mean machine energy in nats.
        moments: Means of z_i z_j over couplers with a free end, (m,).
        n: States.
    """

    energy: float
    moments: FloatArray
    n: int


@dataclass(frozen=True)
class Errors:
    """How far states are from the law of the machine.

    Args:
        energy: Mean energy less the true one, in nats.
        energy_error: Its standard error by the states themselves.
        moments: Root mean square difference of the coupler moments.
        distance: Fréchet distance of decoded showers from Geant4.
    """

    energy: float
    energy_error: float
    moments: float
    distance: float


_NOTHING = Errors(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Measured:
    """A protocol on one emulated chip.

    Args:
        raw: Errors of the reads as they came.
        polished: The same after a polish.
        drawn: Root mean square of ln(true beta / what the machine was divided by).
        known: Root mean square of ln(what beta was taken to be / true beta).
        bias: Mean of ln(what beta was taken to be / true beta).
        programmings: Programmings a shower.
        reads: Reads a shower.
        access_s: Access time a shower in seconds.
        n: Showers.
        failure: Why the protocol gave none; then all numbers are NaN.
    """

    raw: Errors
    polished: Errors
    drawn: float
    known: float
    bias: float
    programmings: float
    reads: float
    access_s: float
    n: int
    failure: str = ""

    @classmethod
    def failed(cls, reason: str) -> "Measured":
        """A protocol that came to no end."""
        return cls(_NOTHING, _NOTHING, *(math.nan,) * 6, 0, reason)


def geant4_showers(model: TrainedModel) -> Geant4:
    """Held-out showers of the run's settings, and those of its training file.

    Raises:
        DataError: If a file cannot be read.
    """
    config, grid = model.config, training_grid(model.config)
    parts, origin = [], ""
    for name, part in ((config.data.heldout, "heldout"), (config.data.train, "train")):
        path, origin = resolve_file(name, part)
        with ShowerFile(path, grid) as file:
            energies = file.incident_energies().astype(np.float32).reshape(-1, 1)
            low, high = config.data.energy_min_mev, config.data.energy_max_mev
            rows = np.flatnonzero((energies[:, 0] >= low) & (energies[:, 0] <= high))
            features = [
                feature_vector(highlevel_features(file.read(start, stop), energies[start:stop], grid))
                for start, stop in _chunks(len(energies))
            ]
        parts.append((torch.from_numpy(energies[rows]), np.concatenate(features)[rows]))
    (energies_out, held_out), (energies_in, trained) = parts
    return Geant4(energies_out, held_out, trained, energies_in, feature_names(grid), origin)


def requests_of(prior: LatentPrior, energies: Tensor, n: int, n_conditions: int) -> Requests:
    """The first n showers of a list, sorted by condition.

    Args:
        prior: The prior, which gives energies their conditions.
        energies: Incident energies in MeV, (m, 1).
        n: Showers wanted.
        n_conditions: Most conditions to keep, evenly over the energies.

    Raises:
        ConfigError: If there are fewer showers.
    """
    rows = prior.code.encode(energies).numpy().astype(np.float64)
    order = np.argsort(energies[:, 0].numpy(), kind="stable")
    _, first, number = np.unique(rows[order], axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[number.ravel()]  # conditions in the order of their energies
    if n_conditions < len(first):
        kept = np.unique(np.linspace(0, len(first) - 1, n_conditions).round().astype(int))
        order, rank = order[np.isin(rank, kept)], rank[np.isin(rank, kept)]
    if len(order) < n:
        raise ConfigError(f"{n} showers cannot be asked for at {len(order)} held-out energies; lower n_showers")
    chosen = np.sort(np.argsort(order, kind="stable")[:n])  # the first n of the list, in the order of their energies
    values, counts = np.unique(rank[chosen], return_counts=True)
    starts = np.searchsorted(rank[chosen], values)
    return Requests(rows[order[chosen]][starts], counts.astype(np.int64), energies[order[chosen]])


@torch.no_grad()
def classical(prior: LatentPrior, requests: Requests, n_sweeps: int, times: int, generator: torch.Generator) -> Tensor:
    """States (times * n, N) by block Gibbs from fair coins, under the conditions of the requests, one after another."""
    parts = [
        prior.states(prior.sample(requests.energies, n_sweeps, generator), requests.energies) for _ in range(times)
    ]
    return torch.cat(parts)


class ProtocolJudge:
    """Judges states of one machine under the conditions of the requests.

    Args:
        machine: The machine.
        requests: What was asked for.
        model: Networks that decode.
        geant4: What decoded showers are held against.
        truth_states: A large classical sample, (k n, N), in k rounds over the requests.
    """

    def __init__(
        self,
        machine: StudyMachine,
        requests: Requests,
        model: TrainedModel,
        geant4: Geant4,
        truth_states: Tensor,
    ) -> None:
        self.machine, self.requests, self.model, self.geant4 = machine, requests, model, geant4
        edges = machine.prior.topology.edges
        self._edges = torch.from_numpy(edges[~machine.prior.clamped[edges].all(axis=1)])
        times = len(truth_states) // requests.n
        self.truth = Truth(
            float(self._energies(truth_states, requests.energies.repeat(times, 1)).mean()),
            self._moments(truth_states),
            len(truth_states),
        )

    @torch.no_grad()
    def errors(self, states: Tensor, seed: int) -> Errors:
        """Errors of states (n, N) in the order of the requests.

        Args:
            states: The states.
            seed: Seed of the decoder's noise.
        """
        energies = self.requests.energies
        values = self._energies(states, energies)
        return Errors(
            float(values.mean()) - self.truth.energy,
            float(values.std(ddof=1)) / math.sqrt(len(values)),
            float(np.sqrt(np.mean((self._moments(states) - self.truth.moments) ** 2))),
            self.geant4.distance(self._features(states, seed)),
        )

    def _energies(self, states: Tensor, energies: Tensor) -> FloatArray:
        prior = self.machine.prior
        with torch.no_grad():
            values = prior.machine.energy(states, prior.condition(energies))
        return np.asarray(values.double().numpy())

    def _moments(self, states: Tensor) -> FloatArray:
        first, second = self._edges.T
        return np.asarray((states[:, first] * states[:, second]).double().mean(dim=0).numpy())

    def geant4_floor(self, generator: torch.Generator) -> float:
        """Fréchet distance of as many showers of the training set, under the same conditions.

        Raises:
            ConfigError: If there are too few under a condition.
        """
        code = self.machine.prior.code.encode(self.geant4.other_energies).numpy()
        rows = []
        for condition, count in zip(self.requests.conditions, self.requests.counts, strict=True):
            found = torch.from_numpy(np.flatnonzero((code == condition).all(axis=1)))
            if len(found) < count:
                raise ConfigError(f"{len(found)} training showers for {count} requests at a condition; lower n_showers")
            rows.append(found[torch.randperm(len(found), generator=generator)[:count]])
        return self.geant4.distance(self.geant4.other[torch.cat(rows).numpy()])

    def _features(self, states: Tensor, seed: int) -> FloatArray:
        grid, energies = training_grid(self.model.config), self.requests.energies
        bits, parts = self.machine.prior.latents(states), []
        for start, stop in _chunks(len(bits)):
            incident = energies[start:stop]
            noise = stream(seed, "decode", start)
            showers = self.model.autoencoder.decode(bits[start:stop], incident, noise, self.model.gains["boltzmann"])
            parts.append(feature_vector(highlevel_features(showers.numpy(), incident.numpy(), grid)))
        return np.concatenate(parts)


def measure(
    machine: StudyMachine,
    requests: Requests,
    protocol: Protocol,
    mode: EmulatorMode,
    seed: int,
    judge: ProtocolJudge | None = None,
    n_sweeps: int = 0,
) -> Measured:
    """Draws requests by a protocol on a new emulated chip.

    Args:
        machine: The machine.
        requests: What is drawn.
        protocol: The protocol, without a correction of its own.
        mode: Mode of the emulator.
        seed: Seed of the chip and of everything classical.
        judge: Judges the states of these requests; None judges only beta and the cost.
        n_sweeps: Sweeps of the polish of the states that are judged a second time.
    """
    prior = machine.prior
    annealer = machine.annealer(mode, derive_seed(seed, "chip") % 2**31, is_full=isinstance(protocol, Tiled))
    generator = stream(seed, "protocol", protocol.name)
    try:
        result = protocol.sample(annealer, prior.machine, requests.conditions, requests.counts, generator)
    except AnnealerError as error:
        return Measured.failed(str(error))
    raw = polished = _NOTHING
    if judge is not None:
        states = torch.from_numpy(result.states).float()
        condition = prior.condition(requests.energies)
        after, _ = polish(prior.machine, states, n_sweeps, generator, prior.clamped, condition)
        raw, polished = judge.errors(states, seed), judge.errors(after, seed)
    drawn, known = _beta_errors(result, annealer)
    weights = np.array([record.n_reads for record in result.betas], dtype=np.float64) / result.n_reads
    return Measured(
        raw=raw,
        polished=polished,
        drawn=math.sqrt(float(weights @ drawn**2)),
        known=math.sqrt(float(weights @ known**2)),
        bias=float(weights @ known),
        programmings=result.totals.programmings / result.n_reads,
        reads=result.totals.reads / result.n_reads,
        access_s=result.access_seconds_per_read,
        n=result.n_reads,
    )


def _beta_errors(result: ProtocolResult, annealer: Annealer) -> tuple[FloatArray, FloatArray]:
    """ln(true beta / programmed) and ln(known / true beta) of every kept batch; call k is programming k."""
    history = annealer.sampler.reveal()
    true = np.array([np.mean([history[call].beta for call in record.calls]) for record in result.betas])
    programmed = np.array([record.programmed for record in result.betas])
    known = np.array([record.beta for record in result.betas])
    return np.log(true / programmed), np.log(known / true)


def _chunks(n: int) -> list[tuple[int, int]]:
    return [(start, min(n, start + _DECODE_CHUNK)) for start in range(0, n, _DECODE_CHUNK)]
