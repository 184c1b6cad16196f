r"""What an emulated chip keeps to itself: a clock, a temperature that drifts and heats up, and errors of its control.

The inverse temperature of read k of a programming is

.. math:: \frac{1}{\beta_k} = \frac{e^{-x}}{\beta_0} \big(1 + Q(t_k)\big) + \frac{b}{J}, \qquad
    x' = \rho x + \sqrt{1 - \rho^2} \, \sigma \xi,

with the drift x renewed at every programming and the heat Q raised by a step at every programming and falling as
:math:`e^{-t / \tau}` of a virtual clock in between, while the chip reads, idles or waits. Calls of few reads in quick
succession therefore find the chip warmer than one call of many reads.

The clock knows nothing of real time. Each programming has random streams of its own, named by the seed and its number:
calls that are refused leave no trace in those that follow.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from calo4pqvae.annealer.chip.problem import FloatArray
from calo4pqvae.annealer.chip.table import AccessTime, Chip
from calo4pqvae.annealer.emulator.settings import EmulatorSettings
from calo4pqvae.seeds import derive_seed, stream

__all__ = ["HiddenState", "Programming", "Usage"]


@dataclass(frozen=True, eq=False)
class Programming:
    """What is true of one programming, for tests and studies that judge estimates by it.

    Args:
        index: Number of the programming, from 0.
        started_s: Virtual time at its start in seconds.
        betas: Inverse temperature of every read, shape (reads,).
    """

    index: int
    started_s: float
    betas: FloatArray

    @property
    def beta(self) -> float:
        """Mean inverse temperature of the reads."""
        return float(self.betas.mean())


@dataclass(frozen=True)
class Usage:
    """What has been used since the emulator was opened.

    Args:
        programmings: Programmings.
        reads: Reads.
        access_us: Charged time in microseconds.
        overhead_us: Time of calls that is not charged.
    """

    programmings: int = 0
    reads: int = 0
    access_us: float = 0.0
    overhead_us: float = 0.0


class HiddenState:
    """Clock, temperature and fixed imperfections of one emulated chip.

    Args:
        settings: What it does wrong.
        entry: The chip.
        n_labels: Labels of its ideal graph.
        seed: Seed of everything hidden.
    """

    def __init__(self, settings: EmulatorSettings, entry: Chip, n_labels: int, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.clock_s = 0.0
        self.usage = Usage()
        self.history: list[Programming] = []
        self._beta = entry.beta if settings.beta is None else settings.beta
        self._heat = 0.0
        fixed = np.random.default_rng(derive_seed(seed, "fixed"))
        self._drift = settings.drift_std * fixed.normal()
        self.field_scales: FloatArray = 1.0 + settings.field_scale_spread * fixed.normal(size=n_labels)
        self.flux_offsets: FloatArray = settings.flux_offset * fixed.normal(size=n_labels)

    def wait(self, seconds: float) -> None:
        """Lets virtual time pass; heat falls."""
        self.clock_s += seconds
        self._heat *= math.exp(-seconds / self.settings.heat_decay_s)

    def program(self, times: AccessTime, thermalization_us: float, largest_coupling: float) -> Programming:
        """Programs the chip, makes its reads and lets their time pass.

        Args:
            times: Times of the call.
            thermalization_us: Share of the programming time after the chip has been heated.
            largest_coupling: J of the temperature offset; 0 for none.
        """
        settings = self.settings
        index, started = len(self.history), self.clock_s
        if index:
            noise = self.generator("drift", index).normal()
            memory = settings.drift_memory
            self._drift = memory * self._drift + math.sqrt(1 - memory**2) * settings.drift_std * noise
        self.wait(max(0.0, times.programming_us - thermalization_us) * 1e-6)
        self._heat += settings.heat
        self.wait(thermalization_us * 1e-6)
        record = Programming(index, started, self._betas(times, largest_coupling))
        self.wait((times.sampling_us + settings.overhead_us) * 1e-6)
        self.history.append(record)
        used = self.usage
        self.usage = Usage(
            programmings=used.programmings + 1,
            reads=used.reads + times.n_reads,
            access_us=used.access_us + times.total_us,
            overhead_us=used.overhead_us + settings.overhead_us,
        )
        return record

    def _betas(self, times: AccessTime, largest_coupling: float) -> FloatArray:
        moments = np.arange(times.n_reads) * times.sampling_us / times.n_reads * 1e-6
        heat = self._heat * np.exp(-moments / self.settings.heat_decay_s)
        temperatures = math.exp(-self._drift) / self._beta * (1 + heat)
        if largest_coupling > 0:
            temperatures = temperatures + self.settings.temperature_offset / largest_coupling
        return np.asarray(1.0 / temperatures, dtype=np.float64)

    def generator(self, purpose: str, index: int) -> np.random.Generator:
        """Random numbers of a programming for one purpose."""
        return np.random.default_rng(derive_seed(self.seed, purpose, index))

    def torch_generator(self, purpose: str, index: int) -> torch.Generator:
        """Likewise for the Gibbs kernel."""
        return stream(self.seed, purpose, index)
