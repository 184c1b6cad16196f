"""Two-partite machines on a chip: the effective Ising problem is the machine's, chain breaks are counted."""

import itertools

import numpy as np
import pytest

from calo4pqvae.annealer.calls.annealer import open_annealer
from calo4pqvae.annealer.chip.problem import IsingProblem, ising_problem
from calo4pqvae.annealer.placing.embedding import Embedding, chain_strength, embed, embedded_problem, majority_vote
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.testing import all_states, tiny_machine
from tests.annealer.machines import machine_on

COUPLERS = np.array([[10, 11], [11, 12], [12, 20], [10, 20], [20, 21], [21, 30], [12, 30], [99, 98]])
CHAINS = Embedding(((10, 11, 12), (20, 21), (30,)), COUPLERS)


def logical(couplings: tuple[float, ...] = (0.4, -0.3, 0.2)) -> IsingProblem:
    return IsingProblem(
        np.array([0.3, -0.2, 0.1]), np.array(couplings), np.array([[0, 1], [0, 2], [1, 2]]), 0.7, 2.0, np.arange(3)
    )


def test_the_effective_problem_is_that_of_the_machine_by_hand() -> None:
    """Summing fields and couplers over unbroken chains gives h, J and the constant back, and no more."""
    problem = embedded_problem(logical(), CHAINS, strength=1.5)
    row = {int(qubit): index for index, qubit in enumerate(problem.qubits)}
    assert problem.fields[[row[10], row[11], row[12]]] == pytest.approx([0.1] * 3)
    coupling = {
        tuple(problem.qubits[pair].tolist()): j for pair, j in zip(problem.edges, problem.couplings, strict=True)
    }
    assert coupling == pytest.approx(
        {(10, 11): -1.5, (11, 12): -1.5, (20, 21): -1.5, (12, 20): 0.2, (10, 20): 0.2, (12, 30): -0.3, (21, 30): 0.2}
    )
    for bits in itertools.product((0, 1), repeat=3):
        physical = np.repeat(bits, [3, 2, 1])[None]
        assert problem.machine_energy(physical) == pytest.approx(logical().machine_energy([list(bits)]))


def test_energies_of_a_real_embedding_are_those_of_the_machine() -> None:
    pytest.importorskip("minorminer", reason="minorminer is not installed")
    machine = machine_on(bipartite_topology(5, 4), coupling_std=0.5)
    chip = open_annealer("emulator:advantage2:3", seed=1)
    embedding = embed(machine.topology, "zephyr", 3, chip.nodelist, chip.edgelist)
    problem = embedded_problem(ising_problem(machine, 8.93), embedding)
    bits = all_states(9)
    physical = bits.numpy()[:, embedding.owner].astype(np.uint8)
    np.testing.assert_allclose(problem.machine_energy(physical), machine.energy(bits).detach().numpy(), atol=1e-4)
    chip.read(problem, 1)  # all its parts work and its numbers are in range


def test_an_embedded_machine_is_drawn_with_few_broken_chains() -> None:
    pytest.importorskip("minorminer", reason="minorminer is not installed")
    machine = machine_on(bipartite_topology(12, 3), coupling_std=0.6)
    chip = open_annealer("emulator:advantage2:2", seed=1, mode="ideal")
    embedding = embed(machine.topology, "zephyr", 2, chip.nodelist, chip.edgelist)
    assert embedding.longest > 1
    plain = ising_problem(machine, chip.chip.beta)
    rates = []
    for strength in (0.02, 0.25):
        reads = chip.read(embedded_problem(plain, embedding, strength), 2000, annealing_time=200.0)
        voted = majority_vote(reads.bits, embedding, np.random.default_rng(1))
        rates.append(voted.rate)
    assert rates[0] > 0.1 > 2 * rates[1] > 0
    p = np.exp(-machine.energy(all_states(15)).detach().double().numpy())
    exact = (p / p.sum()) @ all_states(15).numpy()
    clean = voted.bits[voted.is_clean]  # the law of reads without a broken chain is that of the machine
    error = np.sqrt(exact * (1 - exact) / len(clean))
    assert (np.abs(clean.mean(axis=0) - exact) < 4.5 * error).all()


def test_majority_ties_and_statistics() -> None:
    reads = np.array(
        [
            [1, 1, 1, 0, 0, 1],  # clean
            [1, 0, 1, 0, 1, 0],  # first broken, majority one; second a tie
            [0, 0, 1, 1, 1, 0],  # first broken, majority zero
        ]
    )
    voted = majority_vote(np.tile(reads, (400, 1)), CHAINS, np.random.default_rng(3))
    assert voted.is_broken[:3].tolist() == [[False] * 3, [True, True, False], [True, False, False]]
    assert voted.bits[:3, 0].tolist() == [1, 1, 0]
    assert voted.bits[:3, 2].tolist() == [1, 0, 0]
    ties = voted.bits[1::3, 1]
    assert abs(ties.mean() - 0.5) < 4.5 * 0.5 / 20
    assert voted.rate == pytest.approx(3 / 9)
    assert voted.by_chain == pytest.approx([2 / 3, 1 / 3, 0])
    assert voted.clean_share == pytest.approx(1 / 3)
    assert voted.n_reads == 1200
    shares = voted.is_broken.mean(axis=1)
    assert voted.rate_error == pytest.approx(shares.std(ddof=1) / np.sqrt(1200))


def test_chain_strength_follows_the_size_of_couplings() -> None:
    problem = logical((0.4, -0.3, 0.0))
    rms = np.sqrt((0.16 + 0.09) / 2)
    assert chain_strength(problem) == pytest.approx(1.414 * rms * np.sqrt(4 / 3))
    assert chain_strength(problem, 2.0) == pytest.approx(2.0 * rms * np.sqrt(4 / 3))
    assert chain_strength(logical((0.0, 0.0, 0.0))) == 1.0


def test_a_coupling_without_a_coupler_is_refused_and_one_of_zero_is_not() -> None:
    cut = Embedding(CHAINS.chains, COUPLERS[[0, 1, 2, 3, 4, 6]])
    with pytest.raises(AnnealerError, match=r"1 couplings have no coupler between their chains, among them \(1, 2\)"):
        embedded_problem(logical(), cut)
    embedded_problem(logical((0.4, -0.3, 0.0)), cut)


@pytest.mark.parametrize(
    ("chains", "told"),
    [
        (((10, 11), (11, 12)), "share none"),
        (((10,), ()), "share none"),
        (((10, 12), (20,)), "qubits \\[10, 12\\], is not connected"),
    ],
)
def test_chains_that_cannot_be(chains: tuple[tuple[int, ...], ...], told: str) -> None:
    with pytest.raises(AnnealerError, match=told):
        Embedding(chains, COUPLERS)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnnealerError, match="3 chains for 8 nodes"):
        embedded_problem(ising_problem(tiny_machine(), 1.0), CHAINS)
    for strength in (0.0, float("inf")):
        with pytest.raises(AnnealerError, match="holds no chain"):
            embedded_problem(logical(), CHAINS, strength)
    with pytest.raises(AnnealerError, match=r"must be \(reads, 6\)"):
        majority_vote(np.zeros((2, 5)), CHAINS, np.random.default_rng(0))
    chip = open_annealer("emulator:advantage2:1", seed=1)
    with pytest.raises(AnnealerError, match="tiny has 4 partitions, and two can be embedded"):
        embed(tiny_machine().topology, "zephyr", 1, chip.nodelist, chip.edgelist)
    pytest.importorskip("minorminer", reason="minorminer is not installed")
    with pytest.raises(AnnealerError, match="biclique of 60 x 60 does not fit the zephyr m=1"):
        embed(bipartite_topology(60, 60), "zephyr", 1, chip.nodelist, chip.edgelist)
    monkeypatch.setitem(__import__("sys").modules, "minorminer.busclique", None)
    with pytest.raises(AnnealerError, match="pip install minorminer"):
        embed(bipartite_topology(2, 2), "zephyr", 1, chip.nodelist, chip.edgelist)
