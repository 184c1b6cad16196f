"""One door to every annealer: the same calling code, checks before a call, retries, the ledger, and what is said."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dimod
import numpy as np
import pytest
import torch

from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.calls.ledger import Ledger, LedgerCall, SpendingLimitError
from calo4pqvae.annealer.calls.retries import IncompleteReadsError, RetryPolicy
from calo4pqvae.annealer.chip.answers import join_reads
from calo4pqvae.annealer.chip.problem import IsingProblem, Reads
from calo4pqvae.annealer.chip.table import access_time, chip
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.annealer.placing.tiles import chip_of, moved_onto, tiles_on
from calo4pqvae.annealer.protocols.named import open_protocol
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.testing import assert_samples_boltzmann
from tests.annealer.machines import CHIP, machine_on, mock, small_problem

TWO = IsingProblem(
    fields=np.array([0.1, -0.2]), couplings=np.array([-0.5]), edges=np.array([[0, 1]]), constant=0.0, beta=1.0,
    qubits=np.array([7, 3]),
)  # fmt: skip


def replaced(problem: IsingProblem, **changes: Any) -> IsingProblem:
    parts = {name: getattr(problem, name) for name in ("fields", "couplings", "edges", "constant", "beta", "qubits")}
    return IsingProblem(**(parts | changes))


class Script(dimod.Sampler, dimod.Structured):
    """A sampler on two qubits that answers or fails as it is told, one entry a call."""

    properties: Any = None
    nodelist = [3, 7]  # noqa: RUF012
    edgelist = [(3, 7)]  # noqa: RUF012
    parameters = {"num_reads": [], "auto_scale": [], "answer_mode": [], "label": [], "seed": []}  # noqa: RUF012

    def __init__(self, *entries: Any, **properties: Any) -> None:
        self.properties = {"chip_id": "Advantage2_system1"} | properties
        self.entries = list(entries)
        self.given: list[dict[str, Any]] = []

    def sample(self, bqm: Any, **parameters: Any) -> Any:
        self.given.append(parameters)
        entry = self.entries.pop(0) if self.entries else None
        if isinstance(entry, BaseException):
            raise entry
        if isinstance(entry, dimod.SampleSet):
            return entry
        n_reads = parameters["num_reads"] if entry is None else entry
        return dimod.SampleSet.from_samples_bqm([{3: 1, 7: -1}] * n_reads, bqm, aggregate_samples=False)


def annealer_of(*entries: Any, **settings: Any) -> Annealer:
    return open_annealer(Script(*entries), sleep=lambda _: None, **settings)


# --- the same calling code on every sampler ----------------------------------------------------------------------


def simulated_annealing() -> Any:
    pytest.importorskip("dwave.samplers", reason="dwave-samplers is not installed")
    from dwave.samplers import SimulatedAnnealingSampler

    graph = mock()
    return dimod.StructureComposite(SimulatedAnnealingSampler(), graph.nodelist, graph.edgelist)


@pytest.mark.parametrize("kind", ["emulator", "mock", "simulated annealing"])
def test_the_same_calls_run_on_emulator_mock_and_simulated_annealing(kind: str) -> None:
    spec = {"emulator": lambda: CHIP, "mock": mock, "simulated annealing": simulated_annealing}[kind]()
    annealer = open_annealer(spec, seed=5)
    shape = annealer if kind != "simulated annealing" else open_annealer(mock())
    problem = small_problem(shape)
    reads = annealer.read(problem, 50)
    assert reads.bits.shape == (50, problem.n_qubits)
    assert set(np.unique(reads.bits)) == {0, 1}
    assert reads.is_emulated
    assert annealer.is_emulated
    assert (annealer.ledger.programmings, annealer.ledger.reads) == (1, 50)
    assert (annealer.ledger.access_seconds > 0) == (kind != "simulated annealing")
    random = np.random.default_rng(1).integers(0, 2, size=(2000, problem.n_qubits))
    assert problem.machine_energy(reads.bits).mean() < problem.machine_energy(random).mean() - 1


FIXED = {"beta_schedule_type": "custom", "proposal_acceptance_criteria": "Gibbs"}  # of simulated annealing


@pytest.mark.parametrize("kind", ["emulator", "mock", "simulated annealing"])
def test_the_same_protocol_draws_the_same_law_on_emulator_mock_and_simulated_annealing(kind: str) -> None:
    """All three at the inverse temperature of the emulator; the condition is folded, the calling code is one."""
    beta = chip("advantage2").beta
    settings: Any = FIXED | {"beta_schedule": [beta] * 200}
    options: Any = {}
    if kind == "emulator":
        annealer = open_annealer("emulator:advantage2:2:whole", seed=5, mode="ideal")
    elif kind == "mock":
        pytest.importorskip("dwave.samplers", reason="dwave-samplers is not installed")
        from dwave.samplers import SimulatedAnnealingSampler

        sampler = mock(substitute_sampler=SimulatedAnnealingSampler(), substitute_kwargs=settings)
        annealer = open_annealer(sampler, seed=5)
    else:
        annealer, options = open_annealer(simulated_annealing(), seed=5), settings
    machine = machine_on(chip_topology("zephyr", 2, (4, 3, 4, 3)), coupling_std=0.8)
    held = np.zeros(machine.n_nodes, dtype=np.bool_)
    held[:4] = True
    protocol = open_protocol("same-reads", start=beta, correction="none", options=options)
    generator = torch.Generator().manual_seed(1)
    drawn = protocol.sample(annealer, machine, np.array([[1, 0, 1, 1]]), 3000, generator)
    assert_samples_boltzmann(torch.from_numpy(drawn.states).float(), machine, clamped=held)
    (record,) = drawn.betas
    assert abs(record.beta - beta) < 4.5 * record.beta_error
    assert drawn.is_emulated


def test_reads_are_those_of_the_emulator_and_cost_what_the_table_says() -> None:
    annealer = open_annealer(CHIP, seed=5, mode="ideal")
    problem = small_problem(annealer)
    reads = annealer.read(problem, 20, annealing_time=40.0)
    twin = Emulator("advantage2", seed=5, mode="ideal", m=2)
    answer = twin.sample(problem.to_bqm(), num_reads=20, auto_scale=False, answer_mode="raw", annealing_time=40.0)
    column = [list(answer.variables).index(qubit) for qubit in problem.qubits]
    np.testing.assert_array_equal(2 * reads.bits.astype(int) - 1, answer.record.sample[:, column])
    expected = access_time(chip("advantage2"), 20, 40.0, n_qubits=problem.n_qubits).seconds
    assert annealer.ledger.access_seconds == pytest.approx(expected, rel=1e-12)
    assert annealer.ledger.calls[0].estimate == pytest.approx(expected, rel=1e-12)


def test_qubits_are_put_in_the_order_of_the_problem_and_repeated_rows_spelled_out() -> None:
    answer = dimod.SampleSet.from_samples([[1, -1], [-1, -1]], "SPIN", energy=[0, 0], num_occurrences=[3, 1])
    answer = answer.relabel_variables({0: 3, 1: 7}, inplace=False)
    reads = annealer_of(answer).read(TWO, 4)
    assert reads.bits.tolist() == [[0, 1], [0, 1], [0, 1], [0, 0]]  # columns are qubits 7 and 3


def test_binary_answers_are_understood() -> None:
    answer = dimod.SampleSet.from_samples([{3: 1, 7: 0}], "BINARY", energy=[0])
    assert annealer_of(answer).read(TWO, 1).bits.tolist() == [[0, 1]]


def test_scaling_is_off_answers_are_raw_and_each_call_has_a_seed_of_its_own() -> None:
    sampler = Script()
    annealer = open_annealer(sampler, seed=3)
    for _ in range(2):
        annealer.read(TWO, 2, label="job 1")
    first, second = sampler.given
    assert (first["auto_scale"], first["answer_mode"], first["num_reads"], first["label"]) == (False, "raw", 2, "job 1")
    assert first["seed"] != second["seed"]


def test_a_sampler_without_a_working_graph_is_refused() -> None:
    with pytest.raises(
        AnnealerError, match=r"RandomSampler has no working graph; wrap it in dimod\.StructureComposite"
    ):
        open_annealer(dimod.RandomSampler())


def test_seeds_go_on_with_the_ledger(tmp_path: Path) -> None:
    bits = []
    for _ in range(2):
        annealer = open_annealer(CHIP, seed=5, mode="ideal", ledger=tmp_path / "ledger.jsonl")
        bits.append(annealer.read(small_problem(annealer), 30).bits)
    assert annealer.ledger.programmings == 2
    assert not np.array_equal(bits[0], bits[1])


def test_an_emulator_goes_on_as_the_chip_that_it_was(tmp_path: Path) -> None:
    """Opened anew before every call it draws what it draws in one go: the same errors, drift, heat and numbers."""
    whole = open_annealer(CHIP, seed=5, ledger=tmp_path / "whole.jsonl")
    problem = small_problem(whole)
    expected = [whole.read(problem, n_reads).bits for n_reads in (10, 300, 20)]
    for n_reads, bits in zip((10, 300, 20), expected, strict=True):
        part = open_annealer(CHIP, seed=5, ledger=tmp_path / "parts.jsonl")
        np.testing.assert_array_equal(part.read(problem, n_reads).bits, bits)
    np.testing.assert_array_equal(part.sampler.hidden.flux_offsets, whole.sampler.hidden.flux_offsets)
    assert part.sampler.reveal()[-1].beta == pytest.approx(whole.sampler.reveal()[-1].beta, rel=1e-9)


def test_words_for_an_emulator_are_no_words_for_a_sampler() -> None:
    sampler = open_annealer(CHIP, seed=5).sampler
    with pytest.raises(AnnealerError, match="modee is for an emulator that is named"):
        open_annealer(sampler, modee="ideal")


def test_the_graph_of_a_sampler_may_be_told() -> None:
    samplers = pytest.importorskip("dwave.samplers", reason="dwave-samplers is not installed")
    graph = chip_topology("zephyr", 4)
    labels = np.array(graph.node_labels)
    composite = dimod.StructureComposite(
        samplers.SimulatedAnnealingSampler(), labels.tolist(), labels[graph.edges].tolist()
    )
    machine = machine_on(chip_topology("zephyr", 2, 8))
    with pytest.raises(AnnealerError, match="does not say of what graph it is"):
        tiles_on(machine, open_annealer(composite))
    annealer = open_annealer(composite, topology=("zephyr", (4, 4)))
    assert len(tiles_on(machine, annealer)) > 2
    assert chip_of(moved_onto(machine, annealer).topology) == ("zephyr", 4)


# --- faults: an error of one line, or a completed retry; nothing is lost -------------------------------------------


@pytest.mark.parametrize("fault", ["rejected", "timeout", "connection", "truncated"])
def test_faults_of_the_emulator_are_met(fault: Any) -> None:
    annealer = open_annealer(CHIP, seed=5)
    problem = small_problem(annealer)
    annealer.sampler.fail_next(fault)
    reads = annealer.read(problem, 11)
    assert reads.n_reads == 11
    first, second = annealer.ledger.calls
    outcome = {"rejected": "rejected", "timeout": "timeout", "connection": "lost", "truncated": "partial"}[fault]
    assert (first.outcome, second.outcome, second.attempt) == (outcome, "complete", 2)
    used = annealer.sampler.usage
    assert annealer.ledger.programmings == used.programmings
    assert annealer.ledger.access_seconds == pytest.approx(used.access_us * 1e-6, rel=1e-12)
    if fault == "truncated":
        assert reads.info["reads_per_call"] == (5, 6)
        assert reads.timing["qpu_access_time"] == pytest.approx(used.access_us)


@pytest.mark.parametrize(
    ("error", "outcome", "is_charged"),
    [
        (TimeoutError(), "timeout", True),
        (ConnectionResetError("reset"), "lost", True),
        (type("PollingTimeout", (Exception,), {})(), "timeout", True),
        (type("SolverFailureError", (Exception,), {})("programming failed"), "failed", True),
        (type("ResourceLimitsExceededError", (Exception,), {})(), "rejected", False),
        (type("SolverOfflineError", (Exception,), {})(), "rejected", False),
    ],
)
def test_faults_of_a_live_chip_are_met(error: Exception, outcome: str, is_charged: bool) -> None:
    waits: list[float] = []
    annealer = open_annealer(Script(error), sleep=waits.append, retry=RetryPolicy(first_wait=3.0))
    assert annealer.read(TWO, 5).n_reads == 5
    assert waits == [3.0]
    assert annealer.ledger.calls[0].outcome == outcome
    assert (annealer.ledger.calls[0].access_seconds > 0) == is_charged


def test_waits_are_doubled_and_bounded() -> None:
    waits: list[float] = []
    annealer = open_annealer(
        Script(*[TimeoutError()] * 9), sleep=waits.append, retry=RetryPolicy(6, first_wait=1.0, longest_wait=5.0)
    )
    with pytest.raises(
        IncompleteReadsError, match=r"0 of 5 reads came from .* in 6 attempts, the last time TimeoutError"
    ) as told:
        annealer.read(TWO, 5)
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert told.value.reads is None
    assert annealer.ledger.totals.faults == 6


def test_what_came_of_cut_answers_is_given_with_the_error() -> None:
    annealer = annealer_of(3, 2, TimeoutError(), retry=RetryPolicy(3))
    with pytest.raises(IncompleteReadsError, match=r"5 of 9 reads came") as told:
        annealer.read(TWO, 9)
    assert told.value.reads is not None
    assert (told.value.reads.n_reads, told.value.reads.info["reads_per_call"]) == (5, (3, 2))
    assert annealer.ledger.reads == 5


def test_an_answer_without_reads_is_a_fault() -> None:
    annealer = open_annealer(CHIP, seed=5)
    problem = small_problem(annealer)
    annealer.sampler.fail_next("truncated")
    assert annealer.read(problem, 1).info["reads_per_call"] == (0, 1)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("h out of range"), r"refuses the call \(ValueError: h out of range\); correct the request"),
        (dimod.exceptions.BinaryQuadraticModelStructureError("no edge"), r"refuses the call|failed"),
    ],
)
def test_a_refusal_for_good_is_told_at_once(error: Exception, told: str) -> None:
    annealer = annealer_of(error)
    with pytest.raises(AnnealerError, match=told):
        annealer.read(TWO, 5)
    assert len(annealer.ledger.calls) == 1
    assert not annealer.ledger.open_calls


def test_a_fault_of_the_code_stays_what_it_is_and_counts() -> None:
    annealer = annealer_of(ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        annealer.read(TWO, 5)
    assert annealer.ledger.calls[0].outcome == "failed"
    assert annealer.ledger.access_seconds > 0


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (dimod.SampleSet.from_samples([{3: 1, 8: 1}], "SPIN", energy=[0]), "not the 2 of the problem"),
        (dimod.SampleSet.from_samples([{3: 1, 7: 1}] * 9, "SPIN", energy=[0] * 9), "9 reads where 5 were asked for"),
    ],
)
def test_an_answer_to_another_question_is_refused(answer: Any, told: str) -> None:
    annealer = annealer_of(answer)
    with pytest.raises(AnnealerError, match=told):
        annealer.read(TWO, 5)
    assert annealer.ledger.calls[0].outcome == "failed"


def test_reads_are_kept_before_the_call_is_settled_and_before_the_next() -> None:
    seen: list[tuple[int, int, int]] = []
    annealer = annealer_of(3, None)

    def keep(reads: Reads, call: LedgerCall) -> None:
        seen.append((reads.n_reads, call.number, len(annealer.ledger.open_calls)))

    annealer.read(TWO, 5, keep=keep)
    assert seen == [(3, 0, 1), (2, 1, 1)]


# --- refused before anything is sent -------------------------------------------------------------------------------


def chip_and_problem() -> tuple[Annealer, IsingProblem]:
    annealer = open_annealer(CHIP, seed=5)
    return annealer, small_problem(annealer)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fields": 4.5}, r"h of qubit \d+ is 4.5, outside \[-4, 4\]"),
        ({"couplings": 1.25}, r"J of coupler .* is 1.25, outside \[-2, 1\]"),
        ({"couplings": -1.9}, r"the sum of J in the coupling group"),
    ],
)
def test_bad_ranges_are_refused(changes: dict[str, float], told: str) -> None:
    annealer, problem = chip_and_problem()
    bad = replaced(problem, **{name: np.full_like(getattr(problem, name), value) for name, value in changes.items()})
    with pytest.raises(AnnealerError, match=told):
        annealer.read(bad, 5)
    assert annealer.ledger.calls == ()


@pytest.mark.parametrize(
    ("n_reads", "options", "told"),
    [
        (0, {}, "num_reads is 0"),
        (10_001, {}, "num_reads is 10001"),
        (9000, {"annealing_time": 1000.0}, "more than the 1 s of a call"),
        (5, {"annealing_time": 5000.0}, "annealing time in microseconds is 5000"),
        (5, {"programming_thermalization": 1e5}, "programming_thermalization in microseconds is 100000"),
        (5, {"fast_anneal": True}, "a fast anneal takes no fields"),
        (5, {"auto_scale": True}, "auto_scale changes the temperature"),
        (5, {"answer_mode": "histogram"}, "answer_mode is no free option"),
        (5, {"anneal_offsets": []}, "no parameter anneal_offsets"),
        (5, {"flux_biases": np.zeros(7)}, "one for each of the 160 qubits"),
        (5, {"flux_biases": np.full(160, 0.1)}, "beyond 0.01"),
        (5, {"flux_biases": np.full(160, np.nan)}, "is not a number"),
    ],
)
def test_bad_calls_are_refused(n_reads: int, options: dict[str, Any], told: str) -> None:
    annealer, problem = chip_and_problem()
    with pytest.raises(AnnealerError, match=told):
        annealer.read(problem, n_reads, **options)
    assert annealer.ledger.calls == ()
    assert annealer.sampler.usage.programmings == 0


def test_dead_qubits_in_the_patch_are_refused_with_counts() -> None:
    annealer, problem = chip_and_problem()
    dead = int(problem.qubits[2])
    n_cut = int((problem.edges == 2).any(axis=1).sum())
    again = open_annealer(Emulator("advantage2", seed=1, m=2, nodelist=set(annealer.nodelist) - {dead}))
    with pytest.raises(
        AnnealerError, match=rf"lacks 1 qubits and {n_cut} couplers of the problem, among them {dead}, "
    ):
        again.read(problem, 5)


def test_a_graph_that_changed_while_it_is_open_is_noticed() -> None:
    annealer, problem = chip_and_problem()
    before = annealer.graph_id
    annealer.read(problem, 5)
    annealer.sampler.degrade(60)
    with pytest.raises(AnnealerError, match="it has changed, or the chip is another one; place the machine anew"):
        annealer.read(problem, 5)
    assert annealer.graph_id != before
    assert annealer.ledger.programmings == 1


def test_a_mock_that_ignores_flux_biases_is_not_believed() -> None:
    annealer = open_annealer(mock())
    with pytest.raises(AnnealerError, match="takes flux biases and ignores them"):
        annealer.read(small_problem(annealer), 5, flux_biases=np.zeros(160))


def test_the_budget_stops_before_it_is_passed() -> None:
    annealer = open_annealer(CHIP, seed=5, limit=0.1)  # two calls of 35 ms fit
    problem = small_problem(annealer)
    for _ in range(2):
        annealer.read(problem, 10)
    with pytest.raises(SpendingLimitError, match=r"pass the limit of 0\.1 s"):
        annealer.read(problem, 10)
    assert annealer.ledger.access_seconds < 0.1
    assert annealer.sampler.usage.access_us * 1e-6 == pytest.approx(annealer.ledger.access_seconds)


def test_a_budget_that_ends_in_a_retry_gives_what_came() -> None:
    annealer = open_annealer(CHIP, seed=5, limit=0.05)
    problem = small_problem(annealer)
    annealer.sampler.fail_next("truncated")
    with pytest.raises(IncompleteReadsError, match=r"5 of 10 reads came: .* pass the limit") as told:
        annealer.read(problem, 10)
    assert told.value.reads is not None
    assert told.value.reads.n_reads == 5


def test_a_budget_needs_times() -> None:
    with pytest.raises(AnnealerError, match="no spending limit can be held on"):
        open_annealer(mock(), limit=1.0)
    assert open_annealer(mock(), limit=1.0, chip_facts=chip("advantage2")).ledger.limit == 1.0


def test_emulated_and_real_time_are_kept_apart() -> None:
    with pytest.raises(AnnealerError, match="emulated and real access time are not mixed"):
        Annealer(Script(), ledger=Ledger())


@pytest.mark.parametrize("policy", [{"attempts": 0}, {"first_wait": -1.0}])
def test_policies_that_cannot_be_followed(policy: Any) -> None:
    with pytest.raises(AnnealerError, match="cannot be followed"):
        RetryPolicy(**policy)


# --- answers that are fetched by name --------------------------------------------------------------------------------


class Named(Script):
    """A sampler whose answers have names, as those of a live chip do, and whose wire breaks when it is told to."""

    def __init__(self, *breaks: BaseException) -> None:
        super().__init__()
        self.breaks = list(breaks)
        self.answers: dict[str, Any] = {}
        self.client = SimpleNamespace(retrieve_answer=lambda name: SimpleNamespace(sampleset=self.answers[name]))

    def sample(self, bqm: Any, **parameters: Any) -> Any:
        name = f"id-{len(self.answers)}"
        self.answers[name] = super().sample(bqm, **parameters)

        return Wire(name, self.answers[name], self.breaks)


class Wire:
    """An answer on its way."""

    def __init__(self, name: str, answer: Any, breaks: list[BaseException]) -> None:
        self.name, self.answer, self.breaks = name, answer, breaks

    def wait_id(self) -> str:
        return self.name

    def resolve(self) -> None:
        if self.breaks:
            raise self.breaks.pop(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.answer, name)


def test_a_paid_answer_is_fetched_after_the_wire_broke() -> None:
    sampler = Named(ConnectionError("reset by peer"))
    annealer = open_annealer(sampler, sleep=lambda _: None)
    assert annealer.read(TWO, 5).n_reads == 5
    assert (len(sampler.answers), annealer.ledger.programmings) == (1, 1)
    assert annealer.ledger.calls[0].problem_id == "id-0"


def test_an_open_call_is_recovered_by_name() -> None:
    sampler = Named(KeyboardInterrupt())
    annealer = open_annealer(sampler, sleep=lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        annealer.read(TWO, 5)
    (call,) = annealer.ledger.open_calls
    reads = annealer.recover(call, TWO)
    assert reads is not None
    assert reads.n_reads == 5
    assert annealer.ledger.calls[0].outcome == "complete"


def test_a_lost_answer_counts_with_its_estimate() -> None:
    sampler = Named(KeyboardInterrupt())
    annealer = open_annealer(sampler, sleep=lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        annealer.read(TWO, 5)
    sampler.answers.clear()
    (call,) = annealer.ledger.open_calls
    assert annealer.recover(call, TWO) is None
    assert (annealer.ledger.calls[0].outcome, annealer.ledger.access_seconds) == ("lost", call.estimate)


# --- joining ----------------------------------------------------------------------------------------------------------


def test_reads_of_several_calls_are_joined() -> None:
    parts = [
        Reads(
            np.full((n, 2), n % 2),
            TWO,
            {"qpu_access_time": 10.0 * n, "qpu_delay_time_per_sample": 2.0},
            {"calls": (n,)},
        )
        for n in (1, 2)
    ]
    joined = join_reads(parts)
    assert joined.bits.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert joined.timing == {"qpu_access_time": 30.0, "qpu_delay_time_per_sample": 2.0}
    assert joined.info["calls"] == (1, 2)
    with pytest.raises(AnnealerError, match="different problems"):
        join_reads([parts[0], Reads(parts[1].bits, replaced(TWO, beta=2.0))])
    with pytest.raises(AnnealerError, match="no reads to join"):
        join_reads([])
