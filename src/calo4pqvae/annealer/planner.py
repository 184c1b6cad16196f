r"""The planner: what a model, a protocol and a chip make of access time, before any of it is spent.

A call of n reads is charged :math:`t(n) = t_\mathrm{prog} + n\,t_\mathrm{read}`
(:mod:`~calo4pqvae.annealer.chip.table`). A job is a number of samples per epoch, a number of epochs, and the number of
distinct conditions among the samples of an epoch: samples with the same condition share a programming, if the protocol
lets them. With S samples, C conditions and at most R reads a call, one epoch takes

.. math:: P = C \lceil S / (C R) \rceil

programmings and S reads. A protocol adds the calls that estimate the inverse temperature. With T copies of the model
side by side, each giving one sample, the programmings are :math:`\lceil S / T \rceil`.

The plain estimate is one product, time of a sample x samples x epochs; with 20 ms, 100,000 and 200 it is 111.1 h.
:func:`ways_out` shows, step by step, what grouping, bins of energy, training the prior after the autoencoder and a
smaller sample make of it. :func:`plan_calls` costs calls one by one: a training whose steps read a few conditions each
(:mod:`~calo4pqvae.annealer.learning.negative_phase`), or the calls of a ledger, made again on another chip.

Wall time adds what is not charged: the overhead of a call (10 to 20 ms documented) and the latency of the network
("hundreds of milliseconds"). Prices are contracts: they are the caller's to give.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Self

from calo4pqvae.annealer.chip.table import (
    CHIPS,
    DEFAULT_ANNEAL_US,
    DEFAULT_THERMALIZATION_US,
    Chip,
    access_time,
    readout_time,
)
from calo4pqvae.annealer.emulator.graph import whole_graph
from calo4pqvae.annealer.placing.tiles import tiles_on
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import chip_topology, smallest_chip
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = [
    "PROTOCOLS",
    "Job",
    "PlanRow",
    "ProtocolCost",
    "plain_hours",
    "plan",
    "plan_calls",
    "plan_table",
    "protocol_cost",
    "ways_out",
]

_OVERHEAD_S = 0.020
_LATENCY_S = 0.2


@dataclass(frozen=True)
class ProtocolCost:
    """What a protocol does beside drawing the samples.

    Args:
        name: Name of the protocol.
        is_grouped: Whether samples with the same condition share a programming.
        calls_per_sample: Calls that estimate beta before every sample.
        calls_once: Calls that estimate it once, before all.
        reads_per_call: Reads of each of those calls.
        wait_s: Wait between samples in seconds of wall time.
        is_tiled: Whether as many copies of the model as there is room for share a programming, each giving one sample.
        least_reads: Least reads of a programming of samples, summed over copies.
    """

    name: str
    is_grouped: bool
    calls_per_sample: int = 0
    calls_once: int = 0
    reads_per_call: int = 256
    wait_s: float = 0.0
    is_tiled: bool = False
    least_reads: int = 1


PROTOCOLS: Mapping[str, ProtocolCost] = {
    cost.name: cost
    for cost in (
        ProtocolCost("one-read", is_grouped=False),
        ProtocolCost("before-each", is_grouped=False, calls_per_sample=20),
        ProtocolCost("once", is_grouped=False, calls_once=20),
        ProtocolCost("once-with-wait", is_grouped=False, calls_once=20, wait_s=2.5),
        ProtocolCost("one-read-per-call", is_grouped=False, calls_once=20 * 256, reads_per_call=1),
        ProtocolCost("same-reads", is_grouped=True, least_reads=100),
        ProtocolCost("tracked", is_grouped=True),
        ProtocolCost("tiled", is_grouped=False, is_tiled=True, least_reads=100),
    )
}
"""The protocols by name.

``one-read`` is a call of one read per sample and no estimate at all. The four historical ones call the chip for one
read a sample; an estimate of theirs takes twenty calls of 256 reads here. Published codes take 10 to 30 steps of 128 to
256 reads, and a published budget of 0.32 s an event is twenty calls of one read. ``same-reads``, ``tracked`` and
``tiled`` estimate from the reads that are used; ``same-reads`` reads a hundred times in a programming at least, and so
does ``tiled``, counted over its copies, of which there are as many as the ideal graph of the chip has room for.
"""


@dataclass(frozen=True)
class Job:
    """What is to be drawn.

    Args:
        n_qubits: Qubits of the model.
        n_samples: Samples of an epoch (or of a generation).
        n_epochs: Epochs.
        n_conditions: Distinct conditions among the samples of an epoch; at most ``n_samples``.

    Raises:
        AnnealerError: If a number is not positive or there are more conditions than samples.
    """

    n_qubits: int
    n_samples: int
    n_epochs: int = 1
    n_conditions: int = 1

    def __post_init__(self) -> None:
        if min(self.n_qubits, self.n_samples, self.n_epochs, self.n_conditions) < 1:
            raise AnnealerError(f"{self} is no job; give one qubit, sample, epoch and condition or more")
        if self.n_conditions > self.n_samples:
            raise AnnealerError(
                f"{self.n_conditions} conditions for {self.n_samples} samples; give no more conditions than samples"
            )


@dataclass(frozen=True)
class PlanRow:
    """Cost of a job.

    Args:
        chip: Solver name.
        protocol: Name of the protocol.
        step: What is planned, in words.
        fits: Whether the chip has the qubits of the model; without them there are no numbers.
        programmings: Programmings.
        reads: Reads, those of estimates included.
        access_seconds: Charged time in seconds.
        wall_seconds: With overhead, latency and waits, without queues.
        seconds_per_sample: Charged time of a sample.
        price: Price of the charged time, None if no price was given.
    """

    chip: str
    protocol: str
    step: str
    fits: bool
    programmings: int = 0
    reads: int = 0
    access_seconds: float = 0.0
    wall_seconds: float = 0.0
    seconds_per_sample: float = 0.0
    price: float | None = None

    @property
    def access_hours(self) -> float:
        """Charged time in hours."""
        return self.access_seconds / 3600

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return asdict(self) | {"access_hours": self.access_hours}


def plain_hours(seconds_per_sample: float = 0.020, n_samples: int = 100_000, n_epochs: int = 200) -> float:
    """Time of a sample x samples x epochs, in hours.

    Example:
        >>> round(plain_hours(0.020, 100_000, 200), 1)
        111.1
    """
    return seconds_per_sample * n_samples * n_epochs / 3600


def protocol_cost(name: str) -> ProtocolCost:
    """A protocol by name.

    Raises:
        AnnealerError: If there is none of that name.
    """
    if name not in PROTOCOLS:
        raise AnnealerError(f"there is no protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def plan(
    job: Job,
    protocol: ProtocolCost,
    entry: Chip,
    *,
    step: str = "",
    anneal_us: float = DEFAULT_ANNEAL_US,
    most_reads: int | None = None,
    price_per_hour: float | None = None,
    latency_s: float = _LATENCY_S,
) -> PlanRow:
    """Cost of a job with a protocol on a chip.

    Args:
        job: The job.
        protocol: The protocol.
        entry: The chip.
        step: What is planned, in words.
        anneal_us: Anneal in microseconds.
        most_reads: Most reads of a call; what the chip allows if None.
        price_per_hour: Price of an hour of access time in any currency.
        latency_s: Latency of a call in seconds, assumed.

    Raises:
        AnnealerError: If a number makes no sense.
    """
    _check(entry, anneal_us, price_per_hour)
    if job.n_qubits > entry.n_qubits:
        return PlanRow(entry.name, protocol.name, step, fits=False)
    allowed = _most_reads(entry, job.n_qubits, anneal_us)
    if most_reads is not None and not 1 <= most_reads <= allowed:
        raise AnnealerError(
            f"{entry.name} takes 1 to {allowed} reads of {job.n_qubits} qubits a call, not {most_reads}"
        )
    n_samples = job.n_samples * job.n_epochs
    copies = _copies(entry, job.n_qubits) if protocol.is_tiled else 1
    calls = job.n_epochs * math.ceil(_calls_per_epoch(job, protocol, most_reads or allowed) / copies)
    estimates = protocol.calls_once + protocol.calls_per_sample * n_samples
    least = calls * math.ceil(protocol.least_reads / copies)
    samples_read = least if protocol.is_tiled else max(n_samples, least)
    reads = samples_read + estimates * protocol.reads_per_call
    one = access_time(entry, 1, anneal_us, n_qubits=min(copies * job.n_qubits, entry.n_qubits))
    per_read = (one.total_us - one.programming_us) * 1e-6
    access = (calls + estimates) * one.programming_us * 1e-6 + reads * per_read
    return PlanRow(
        chip=entry.name,
        protocol=protocol.name,
        step=step,
        fits=True,
        programmings=calls + estimates,
        reads=reads,
        access_seconds=access,
        wall_seconds=access + (calls + estimates) * (_OVERHEAD_S + latency_s) + n_samples * protocol.wait_s,
        seconds_per_sample=access / n_samples,
        price=None if price_per_hour is None else access / 3600 * price_per_hour,
    )


def plan_calls(
    reads: Sequence[int],
    n_qubits: int,
    entry: Chip,
    *,
    step: str = "",
    protocol: str = "same-reads",
    anneal_us: float = DEFAULT_ANNEAL_US,
    price_per_hour: float | None = None,
    latency_s: float = _LATENCY_S,
) -> PlanRow:
    """Cost of given calls on a chip.

    Args:
        reads: Reads of every call; what a call cannot hold goes into further ones.
        n_qubits: Qubits of every call.
        entry: The chip.
        step: What is planned, in words.
        protocol: Name of the protocol.
        anneal_us: Anneal in microseconds.
        price_per_hour: Price of an hour of access time in any currency.
        latency_s: Latency of a call in seconds, assumed.

    Raises:
        AnnealerError: If there is no call, or one has no reads.
    """
    if not reads or min(reads) < 1 or n_qubits < 1:
        raise AnnealerError(
            f"{len(reads)} calls of {n_qubits} qubits are no plan; give a call, each with a read and a qubit or more"
        )
    _check(entry, anneal_us, price_per_hour)
    if n_qubits > entry.n_qubits:
        return PlanRow(entry.name, protocol, step, fits=False)
    allowed = _most_reads(entry, n_qubits, anneal_us)
    one = access_time(entry, 1, anneal_us, n_qubits=n_qubits)
    calls, total = sum(math.ceil(number / allowed) for number in reads), sum(reads)
    access = (calls * one.programming_us + total * (one.total_us - one.programming_us)) * 1e-6
    return PlanRow(
        chip=entry.name,
        protocol=protocol,
        step=step,
        fits=True,
        programmings=calls,
        reads=total,
        access_seconds=access,
        wall_seconds=access + calls * (_OVERHEAD_S + latency_s),
        seconds_per_sample=access / total,
        price=None if price_per_hour is None else access / 3600 * price_per_hour,
    )


def plan_table(
    job: Job,
    protocols: Iterable[str] = tuple(PROTOCOLS),
    chips: Iterable[Chip] = tuple(CHIPS.values()),
    **options: Any,  # noqa: ANN401
) -> list[PlanRow]:
    """Cost of a job for every protocol and chip.

    Args:
        job: The job.
        protocols: Names of protocols.
        chips: Chips.
        **options: As for :func:`plan`.
    """
    return [plan(job, protocol_cost(name), entry, **options) for entry in chips for name in protocols]


def ways_out(
    job: Job,
    entry: Chip,
    *,
    n_bins: int,
    prior_epochs: int,
    prior_samples: int,
    protocol: str = "tracked",
    **options: Any,  # noqa: ANN401
) -> list[PlanRow]:
    """What each way out makes of the time to train, one on top of the other.

    1. as it was: beta is estimated before each sample, one read a sample;
    2. one read a sample, no estimate of its own: the plain product, at this chip's own time of a call;
    3. samples with the same energy share a programming;
    4. energies are put in bins;
    5. the prior is trained alone, after the autoencoder, for fewer epochs;
    6. and on a smaller sample.

    Args:
        job: Joint training: all samples, all epochs, the distinct energies of the sample.
        entry: The chip.
        n_bins: Bins of energy.
        prior_epochs: Epochs of the prior alone.
        prior_samples: Samples of an epoch of the prior alone.
        protocol: Protocol of steps 3 to 6.
        **options: As for :func:`plan`.

    Raises:
        AnnealerError: If a step is larger than the one before it.
    """
    if n_bins > job.n_conditions or prior_epochs > job.n_epochs or prior_samples > job.n_samples:
        raise AnnealerError(
            f"{n_bins} bins, {prior_epochs} epochs and {prior_samples} samples are more than the {job.n_conditions} "
            f"energies, {job.n_epochs} epochs or {job.n_samples} samples of the job; ask for fewer"
        )
    binned = replace(job, n_conditions=n_bins)
    staged = replace(binned, n_epochs=prior_epochs)
    smaller = replace(staged, n_samples=prior_samples, n_conditions=min(n_bins, prior_samples))
    steps = [
        ("beta before each sample", "before-each", job),
        ("one read a call", "one-read", job),
        (f"grouped by {job.n_conditions:,} energies", protocol, job),
        (f"in {n_bins:,} bins of energy", protocol, binned),
        (f"prior alone, {prior_epochs:,} epochs", protocol, staged),
        (f"on {prior_samples:,} samples", protocol, smaller),
    ]
    return [plan(one, protocol_cost(name), entry, step=step, **options) for step, name, one in steps]


def _check(entry: Chip, anneal_us: float, price_per_hour: float | None) -> None:
    """Refuses what no chip takes and nobody asks.

    Raises:
        AnnealerError: If the anneal is outside the range of the chip, or the price is no price.
    """
    low, high = entry.annealing_range_us
    if not low <= anneal_us <= high:
        raise AnnealerError(f"an anneal of {anneal_us:g} us is outside {low:g} to {high:g} of {entry.name}; correct it")
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise AnnealerError(f"{price_per_hour:g} is no price of an hour; give zero or more")


def _most_reads(entry: Chip, n_qubits: int, anneal_us: float) -> int:
    """Reads that one call may have, by the range and by the run limit with the default thermalisation."""
    per_read = anneal_us + readout_time(entry, n_qubits)
    return min(entry.num_reads_range[1], int((entry.run_limit_us - DEFAULT_THERMALIZATION_US) // per_read))


@dataclass(frozen=True)
class _IdealGraph:
    """The graph of a chip with nothing gone."""

    nodelist: Sequence[int]
    edgelist: Sequence[tuple[int, int]]
    properties: Mapping[str, Any]

    @classmethod
    def of(cls, entry: Chip) -> Self:
        graph = whole_graph(entry)
        shape = [entry.m, entry.t] if entry.family == "zephyr" else [entry.m]
        return cls(graph.qubits, graph.couplers, {"topology": {"type": entry.family, "shape": shape}})


@lru_cache
def _copies(entry: Chip, n_qubits: int) -> int:
    """Compact patches of a model, in four partitions of about one size, for which the ideal graph has room."""
    sizes = tuple(max(1, math.ceil((n_qubits - partition) / 4)) for partition in range(4))
    size = smallest_chip(entry.family, sizes)
    if size > entry.m:
        return 1
    return len(tiles_on(BoltzmannMachine(chip_topology(entry.family, size, sizes)), _IdealGraph.of(entry)))


def _calls_per_epoch(job: Job, protocol: ProtocolCost, most_reads: int) -> int:
    """Programmings of an epoch: conditions share samples as evenly as whole numbers allow."""
    if not protocol.is_grouped:
        return job.n_samples
    few, n_more = divmod(job.n_samples, job.n_conditions)
    sizes: Sequence[tuple[int, int]] = ((few, job.n_conditions - n_more), (few + 1, n_more))
    return sum(math.ceil(size / most_reads) * number for size, number in sizes)
