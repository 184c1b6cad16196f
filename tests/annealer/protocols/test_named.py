"""Protocols on an annealer of known inverse temperature: what they pay, what they find, and whose law they draw."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calo4pqvae.annealer.beta.energy_matching import EnergySample
from calo4pqvae.annealer.beta.temperature_rules import AdditiveRule, MultiplicativeRule
from calo4pqvae.annealer.chip.problem import Reads
from calo4pqvae.annealer.protocols.base import Protocol
from calo4pqvae.annealer.protocols.named import (
    PROTOCOLS,
    BeforeEach,
    Once,
    OnceWithWait,
    OneReadPerCall,
    SameReads,
    Tracked,
    open_protocol,
)
from calo4pqvae.annealer.protocols.run import Conditioning, ProtocolResult
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.testing import all_states
from tests.annealer.known_annealer import KnownAnnealer
from tests.annealer.machines import machine_on

TOPOLOGY = chip_topology("zephyr", 2, 4)
CONDITIONS = np.array([[1, 0, 0, 1], [0, 1, 1, 1]])
COUNTS = [2, 3]


class Counted:
    """A rule that stops at a given programming of each estimate and moves beta by a factor before."""

    def __init__(self, n_steps: int, factor: float = 1.0) -> None:
        self.n_steps, self.factor, self.n_seen = n_steps, factor, 0
        self.seen: list[EnergySample] = []
        self.wanted: list[EnergySample] = []

    def step(self, beta: float, seen: EnergySample, wanted: EnergySample) -> float:
        del seen, wanted
        return beta * self.factor

    def is_settled(self, seen: EnergySample, wanted: EnergySample) -> bool:
        self.seen.append(seen)
        self.wanted.append(wanted)
        self.n_seen += 1
        return self.n_seen % self.n_steps == 0

    def multiplier(self, beta: float, mean: float, variance: float) -> float:
        del beta, mean, variance
        return 0.0


class Slipping(KnownAnnealer):
    """An annealer that never holds the first qubit, but in estimates."""

    def read(self, *arguments: Any, **options: Any) -> Reads:
        reads = super().read(*arguments, **options)
        if options["label"] != "estimate":
            reads.bits[:, 0] ^= 1
        return reads


def machine(coupling_std: float = 1.5) -> BoltzmannMachine:
    return machine_on(TOPOLOGY, coupling_std=coupling_std)


def drawn(
    protocol: Protocol,
    beta: Callable[[int, int], float] | float = 8.93,
    counts: Any = COUNTS,
    of: BoltzmannMachine | None = None,
    **annealer: Any,
) -> tuple[ProtocolResult, KnownAnnealer]:
    known = KnownAnnealer(TOPOLOGY, beta, **annealer)
    generator = torch.Generator().manual_seed(3)
    result = protocol.sample(known, of or machine(), CONDITIONS, counts, generator)  # type: ignore[arg-type]
    return result, known


def labels(annealer: KnownAnnealer) -> str:
    """First letters of what the calls were for: e(stimate), s(ample), and those of the reads that are used."""
    return "".join(call.label[0] for call in annealer.ledger.calls)


def test_before_each_pays_an_estimate_for_every_sample() -> None:
    rule = Counted(2)
    result, annealer = drawn(BeforeEach(rule=rule, reference_sweeps=20))
    assert labels(annealer) == "ees" * 5
    assert annealer.n_reads == [256, 256, 1] * 5
    assert (result.totals.programmings, result.totals.reads) == (15, 5 * 513)
    assert [record.condition for record in result.betas] == [0, 0, 1, 1, 1]
    assert [record.reads_per_call for record in result.betas] == [1] * 5


def test_before_each_starts_at_the_last_beta() -> None:
    result, _ = drawn(BeforeEach(rule=Counted(2, factor=1.1), start=5.0, reference_sweeps=20))
    assert [record.programmed for record in result.betas] == pytest.approx([5.0 * 1.1**k for k in range(1, 6)])


def test_once_pays_one_estimate_under_the_first_condition() -> None:
    result, annealer = drawn(Once(rule=Counted(3), reference_sweeps=20))
    assert labels(annealer) == "eee" + "s" * 5
    assert annealer.n_reads == [256] * 3 + [1] * 5
    assert (result.totals.programmings, result.totals.reads) == (8, 3 * 256 + 5)
    assert annealer.waited == 0
    assert len({record.programmed for record in result.betas}) == 1


def test_once_with_wait_rests_before_every_sample_and_never_in_the_estimate() -> None:
    result, annealer = drawn(OnceWithWait(rule=Counted(3), reference_sweeps=20))
    assert labels(annealer) == "eee" + "s" * 5
    assert annealer.waited == 5 * 2.5
    assert (result.totals.programmings, result.totals.reads) == (8, 3 * 256 + 5)


def test_one_read_per_call_programs_for_every_read_and_drops_five_from_both_means() -> None:
    rule = Counted(2)
    result, annealer = drawn(OneReadPerCall(rule=rule, reference_chains=64, reference_sweeps=20))
    assert annealer.n_reads == [1] * (2 * 133 + 5)
    assert labels(annealer) == "e" * 266 + "s" * 5
    assert (result.totals.programmings, result.totals.reads) == (271, 271)
    assert [sample.n for sample in rule.seen] == [128, 128]
    estimate = result.betas[0].estimate
    assert estimate is not None
    assert estimate.n_reads == 2 * 128


def test_the_first_five_reads_may_be_anything() -> None:
    """The chip is cold in the first five calls of an estimate; the mean of the others does not know it."""
    plain, cold = Counted(1), Counted(1)
    protocol = {"reference_chains": 64, "reference_sweeps": 20}
    drawn(OneReadPerCall(rule=plain, **protocol), lambda _call, _n: 8.0)
    drawn(OneReadPerCall(rule=cold, **protocol), lambda call, _n: 8.0 if call >= 5 else 1e4)
    others = cold.seen[0]
    assert others.mean == pytest.approx(plain.seen[0].mean, abs=4 * math.hypot(others.error, plain.seen[0].error))
    # Condition by condition the classical mean has the turns of the calls that count: 128 of 133, from the sixth on.
    assert cold.wanted == plain.wanted


def test_published_protocols_can_be_grouped() -> None:
    result, annealer = drawn(BeforeEach(rule=Counted(1), reads_per_call=0, reference_sweeps=20), counts=[40, 60])
    assert annealer.n_reads == [256, 40, 256, 60]
    assert result.n_reads == 100


def test_same_reads_programs_once_a_condition() -> None:
    result, annealer = drawn(SameReads(polish_sweeps=0))
    assert labels(annealer) == "ss"
    assert annealer.n_reads == [100, 100]
    assert result.totals.programmings == 2
    assert result.n_reads == 5  # the others served the estimate alone
    large, annealer = drawn(SameReads(polish_sweeps=0), counts=[150, 1300])
    assert annealer.n_reads == [150, 1000, 300]  # the annealer takes 1000 reads a call
    assert large.n_reads == 1450


def test_same_reads_gives_up_reads_that_are_far_off_and_no_more() -> None:
    protocol = SameReads(start=8.93 * 1.5, polish_sweeps=0)
    result, annealer = drawn(protocol, counts=[100, 100])
    assert annealer.n_reads == [100, 100, 100]  # the first ones were drawn at two thirds
    assert [record.programmed for record in result.betas] == pytest.approx([8.93, 8.93], rel=0.1)


def test_tracked_asks_for_what_is_wanted() -> None:
    result, annealer = drawn(Tracked(polish_sweeps=0), counts=[7, 3])
    assert annealer.n_reads == [20, 3]  # the first programming must know something of beta
    assert labels(annealer) == "tt"
    assert result.n_reads == 10
    assert result.betas[0].estimate is not None
    assert result.betas[1].estimate is None  # three reads wait for others


def test_tracked_gathers_reads_of_several_programmings() -> None:
    protocol = Tracked(polish_sweeps=0)
    known = KnownAnnealer(TOPOLOGY, 8.93)
    rows = np.array([[k & 1, k >> 1 & 1, k >> 2 & 1, k >> 3 & 1] for k in range(9)])
    result = protocol.sample(known, machine(), rows, 5, torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    assert known.n_reads == [20] + [5] * 8
    made = [record.estimate is not None for record in result.betas]
    assert made == [True, *([False] * 3 + [True]) * 2]
    second = result.betas[4].estimate
    assert second is not None
    assert (second.n_programmings, second.n_reads) == (4, 20)
    assert result.betas[8].beta_error < result.betas[0].beta_error


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_every_protocol_finds_beta_from_afar(name: str) -> None:
    settings: dict[str, Any] = {} if name in ("same-reads", "tracked") else {"reference_chains": 1000}
    if name == "tracked":
        settings["start_error"] = 0.6
    if name == "one-read-per-call":
        settings |= {"estimate_reads": 64, "max_programmings": 4}
    result, _ = drawn(open_protocol(name, **settings), 5.0, counts=[60, 60] if not settings else COUNTS)
    last = result.betas[-1]
    assert last.beta == pytest.approx(5.0, abs=5 * last.beta_error)
    assert last.beta == pytest.approx(5.0, rel=0.25)
    assert last.ratio == pytest.approx(1.0, abs=0.2)
    assert result.is_emulated


def test_only_one_read_per_call_sees_the_heat_of_programming() -> None:
    """The chip is at 3.8 in calls of many reads and at 2.6 in those of one, as samples are drawn."""

    def beta(_call: int, n_reads: int) -> float:
        return 3.8 if n_reads > 1 else 2.6

    of = machine(2.0)
    found = {}
    for kind in (BeforeEach, Once, OneReadPerCall):
        reads = {"estimate_reads": 64, "max_programmings": 4} if kind is OneReadPerCall else {}
        result, _ = drawn(kind(reference_chains=1000, start=3.8, **reads), beta, of=of)
        found[kind] = result.betas[-1]
    assert found[OneReadPerCall].beta == pytest.approx(2.6, rel=0.2)
    for kind in (BeforeEach, Once):
        assert found[kind].beta == pytest.approx(3.8, rel=0.12)
        assert 2.6 / found[kind].programmed < 0.8  # at what ratio its samples were drawn in truth


def test_only_estimates_beside_the_samples_follow_a_drift() -> None:
    def beta(call: int, _n: int) -> float:
        return 8.0 * math.exp(-0.02 * call)

    of = machine(2.0)
    for kind, is_following in ((BeforeEach, True), (Once, False), (SameReads, True)):
        settings = {"reference_chains": 1000} if kind is not SameReads else {}
        result, annealer = drawn(kind(start=8.0, **settings), beta, counts=[12, 12], of=of)
        ratio = annealer.betas[-1] / result.betas[-1].programmed
        assert (abs(math.log(ratio)) < 0.2) == is_following or kind is SameReads
        if kind is SameReads:  # it knows at which ratio it was drawn
            assert result.betas[-1].beta == pytest.approx(annealer.betas[-1], abs=4 * result.betas[-1].beta_error)


def test_published_rules_work_inside() -> None:
    with pytest.raises(AnnealerError, match="take Newton's rule or another start"):
        drawn(Once(rule=AdditiveRule(is_adaptive=True), start=4.0, reference_sweeps=50), of=machine(2.0))
    rule = MultiplicativeRule()
    result, _ = drawn(Once(rule=rule, start=4.0, max_programmings=7, reference_sweeps=50))
    estimate = result.betas[0].estimate
    assert estimate is not None
    assert estimate.n_programmings <= 7


def exact(of: BoltzmannMachine, condition: NDArray[np.int64]) -> tuple[float, float, NDArray[np.float64]]:
    """Mean and variance of the energy and means of all bits under a condition, from the formula."""
    free = all_states(12).numpy()
    states = np.concatenate([np.tile(condition, (len(free), 1)), free], axis=1)
    biases, couplings = of.biases.detach().double().numpy(), of.couplings.detach().double().numpy()
    edges = of.topology.edges
    energies = -states @ biases - (states[:, edges[:, 0]] * states[:, edges[:, 1]]) @ couplings
    weights = np.exp(-(energies - energies.min()))
    weights /= weights.sum()
    mean = float(weights @ energies)
    return mean, float(weights @ (energies - mean) ** 2), weights @ states


@pytest.mark.parametrize("correction", ["polish", "importance", "none"])
def test_corrections_draw_the_law_of_the_machine(correction: Any) -> None:
    """Reads at 0.8 of the right inverse temperature, which a limit lets pass; without correction the test fails."""
    of = machine()
    protocol = SameReads(start=10.0, redo_beyond=0.5, correction=correction, polish_sweeps=30)
    result, _ = drawn(protocol, lambda _call, _n: 8.0, counts=[1000, 1000], of=of)
    weights = result.normalised_weights()
    pulls = []
    for index, condition in enumerate(CONDITIONS):
        chosen = result.condition == index
        states = result.states[chosen].astype(np.float64)
        mean, variance, bits = exact(of, condition)
        energies = of.energy(torch.from_numpy(states).float()).detach().double().numpy()
        error = math.sqrt(variance * (weights[chosen] ** 2).sum()) / chosen.sum()
        pulls.append(((weights[chosen] * energies).mean() - mean) / error)
        assert (states[:, :4] == condition).all()
        if correction != "none":
            spread = np.sqrt(bits * (1 - bits) + 1e-12) * math.sqrt((weights[chosen] ** 2).sum()) / chosen.sum()
            assert np.abs((weights[chosen] @ states / chosen.sum() - bits) / spread)[4:].max() < 4.5
    first = pulls[0]  # the second programming was divided by what the first one found
    assert (abs(first) < 4) == (correction != "none")
    assert abs(pulls[1]) < 4
    if correction == "importance":
        assert result.n_reads / 2 < result.effective_reads < result.n_reads


def test_reads_whose_condition_slipped_are_replaced() -> None:
    protocol = Once(
        rule=Counted(1),
        conditioning=Conditioning("fields"),
        reads_per_call=50,
        reference_sweeps=20,
    )
    result, annealer = drawn(protocol, counts=[50, 50], flips=0.02)
    assert result.n_reads == 100
    assert result.clamp.n_wrong_reads > 0
    assert (result.states[:, :4] == CONDITIONS[result.condition]).all()
    assert len(annealer.n_reads) > 3


def test_conditions_that_do_not_hold_are_told() -> None:
    settings: dict[str, Any] = {"conditioning": Conditioning("fields")}
    once, slipping = Once(rule=Counted(1), reference_sweeps=20, **settings), Slipping(TOPOLOGY, 8.93)
    with pytest.raises(AnnealerError, match=r"held in 0 of 1 reads in 6 programmings; hold it more strongly"):
        once.sample(slipping, machine(), CONDITIONS, 5, torch.Generator())  # type: ignore[arg-type]
    for protocol in (SameReads(max_redos=0, **settings), Tracked(max_redos=0, **settings)):
        slipping = Slipping(TOPOLOGY, 8.93)
        with pytest.raises(AnnealerError, match="did not hold in any read of 3 programmings"):
            protocol.sample(slipping, machine(), CONDITIONS, 5, torch.Generator())  # type: ignore[arg-type]
        assert slipping.ledger.totals.programmings == 3


@pytest.mark.parametrize("counts", [0, [1], [1, 0], [1, 2, 3], 1.5, [[1, 2]]])
def test_numbers_of_samples_that_make_no_work(counts: Any) -> None:
    with pytest.raises(AnnealerError, match="make no work"):
        drawn(Once(rule=Counted(1)), counts=counts)


def test_bad_input() -> None:
    with pytest.raises(AnnealerError, match="there is no protocol 'twice'; choose one of before-each"):
        open_protocol("twice")
    with pytest.raises(AnnealerError, match="has no setting 'wait_s'"):
        open_protocol("before-each", wait_s=1.0)
    for settings in ({"reads_per_call": -1}, {"polish_sweeps": -1}, {"start": 0.0}, {"start": math.nan}):
        with pytest.raises(AnnealerError, match="make no protocol"):
            open_protocol("once", **settings)
    known, generator = KnownAnnealer(TOPOLOGY, 8.93), torch.Generator()
    with pytest.raises(AnnealerError, match="give one row a condition"):
        Once().sample(known, machine(), np.zeros(4), 1, generator)  # type: ignore[arg-type]
    with pytest.raises(AnnealerError, match="a condition of shape"):
        Once().sample(known, machine(), np.zeros((1, 3)), 1, generator)  # type: ignore[arg-type]
    assert open_protocol("once-with-wait", wait_s=1.0).wait_s == 1.0  # type: ignore[attr-defined]
