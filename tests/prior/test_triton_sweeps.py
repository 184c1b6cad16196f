"""The GPU kernel: its law, on a CUDA device or through Triton's interpreter, and what can be told without either.

Triton runs a process either compiled or interpreted, which is settled when it is imported, and PyTorch may import it at
any time. The interpreted tests therefore run in a process of their own, started by
``test_through_the_interpreter``.
"""

import itertools
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.pairs import compressed_rows
from calo4pqvae.prior.kernels.triton_sweeps import NeighbourTable, is_available, triton_sweeps, unavailable_because
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.testing import all_states, assert_samples_boltzmann, tiny_machine

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
SEED = 0x123456789ABCDEF
WORDS32 = 0xFFFFFFFF


@pytest.fixture
def device() -> Iterator[torch.device]:
    if INTERPRETED:
        with np.errstate(over="ignore"):  # hardware wraps and saturates without a word
            yield torch.device("cpu")
    elif torch.cuda.is_available() and is_available(torch.device("cuda")):
        yield torch.device("cuda")
    else:
        pytest.skip("needs a CUDA device; test_through_the_interpreter runs it without one")


@dataclass(frozen=True)
class Problem:
    """The free bits of a machine as the kernel takes them."""

    machine: BoltzmannMachine
    indices: Tensor
    offsets: Tensor
    weights: Tensor
    starts: tuple[int, ...]
    matrix: NDArray[np.float64]  # couplings, (N, N)
    biases: NDArray[np.float64]  # (N,)

    def run(
        self,
        values: Tensor,
        n_sweeps: int,
        device: torch.device,
        constant: Tensor | None = None,
        beta: float | Tensor = 1.0,
        seed: int = SEED,
    ) -> Tensor:
        """Chains in rows, as in the rest of the package."""
        fields = self.machine.biases.detach()[:, None] if constant is None else constant
        result = triton_sweeps(
            values.t().contiguous().to(device),
            self.indices.to(device),
            self.offsets.to(device),
            self.weights.to(device),
            self.starts,
            fields.to(device),
            torch.as_tensor(beta, dtype=torch.float32).to(device),
            n_sweeps,
            seed,
        )
        return result.t().cpu()


def problem(machine: BoltzmannMachine) -> Problem:
    topology = machine.topology
    indices, offsets, couplers = compressed_rows(topology.edges, topology.n_nodes)
    matrix = np.zeros((machine.n_nodes, machine.n_nodes))
    for (i, j), coupling in zip(topology.edges, machine.couplings.tolist(), strict=True):
        matrix[i, j] = matrix[j, i] = coupling
    return Problem(
        machine=machine,
        indices=torch.from_numpy(indices.astype(np.int32)),
        offsets=torch.from_numpy(offsets.astype(np.int32)),
        weights=machine.couplings.detach()[torch.from_numpy(couplers)],
        starts=(*(nodes.start for nodes in topology.slices), topology.n_nodes),
        matrix=matrix,
        biases=machine.biases.detach().double().numpy(),
    )


def flat_problem(sizes: tuple[int, ...]) -> Problem:
    """Free coins: no field and no coupling."""
    machine = tiny_machine(sizes)
    with torch.no_grad():
        machine.biases.zero_()
        machine.couplings.zero_()
    return problem(machine)


def coins(n_chains: int, n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (n_chains, n), generator=torch.Generator().manual_seed(seed)).float()


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def sweep_law(
    case: Problem, start: NDArray[np.float64], fields: NDArray[np.float64], beta: float
) -> NDArray[np.float64]:
    """Probability of every state, in the order of ``all_states``, one sweep after ``start``."""
    law = []
    for end in all_states(len(start)).double().numpy():
        now, probability = start.copy(), 1.0
        for first, stop in itertools.pairwise(case.starts):
            odds = sigmoid(beta * (fields + case.matrix @ now))[first:stop]
            probability *= float(np.prod(np.where(end[first:stop] == 1, odds, 1 - odds)))
            now[first:stop] = end[first:stop]
        law.append(probability)
    return np.array(law)


def assert_counts(cells: NDArray[np.int64], law: NDArray[np.float64]) -> None:
    """Chi-square test, cells of less than five expected draws together in one."""
    expected = law * len(cells)
    observed = np.bincount(cells, minlength=len(law)).astype(np.float64)
    rare = expected < 5
    seen = np.append(observed[~rare], observed[rare].sum())
    due = np.append(expected[~rare], expected[rare].sum())
    if due[-1] < 5:
        seen[-2:], due[-2:] = seen[-2:].sum() / 2, due[-2:].sum() / 2
    p_value = float(stats.chi2.sf(((seen - due) ** 2 / due).sum(), len(due) - 1))
    assert p_value > 1e-4, f"p = {p_value:.1e}"


def numbers(states: Tensor) -> NDArray[np.int64]:
    """Number of each state, the first bit counting most."""
    place = 2 ** np.arange(states.shape[1])[::-1]
    return (states.numpy() @ place).astype(np.int64)


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [(3, 1, 2, 2), (4, 3)])
def test_one_sweep_from_a_known_state_with_a_beta_for_each_chain(sizes: tuple[int, ...], device: torch.device) -> None:
    case, half = problem(tiny_machine(sizes, seed=3)), 8_000
    start = coins(1, sum(sizes), seed=5)
    betas = torch.cat([torch.full((half,), 0.4), torch.full((half,), 1.6)])
    drawn = case.run(start.repeat(2 * half, 1), 1, device, beta=betas)
    for part, beta in ((drawn[:half], 0.4), (drawn[half:], 1.6)):
        assert_counts(numbers(part), sweep_law(case, start[0].double().numpy(), case.biases, beta))
        with pytest.raises(AssertionError):
            assert_counts(numbers(part), sweep_law(case, start[0].double().numpy(), case.biases, 1.3 * beta))


@pytest.mark.gpu
def test_one_sweep_with_fields_of_each_chain(device: torch.device) -> None:
    """What clamped neighbours and conditions do to a chain is a field of its own."""
    case, half = problem(tiny_machine((2, 3, 1), seed=6)), 8_000
    start = coins(1, 6, seed=7)
    fields = coins(2, 6, seed=8) - 0.3
    drawn = case.run(start.repeat(2 * half, 1), 1, device, constant=fields.repeat_interleave(half, 0).t(), beta=0.9)
    for part, own in zip(drawn.split(half), fields.double().numpy(), strict=True):
        assert_counts(numbers(part), sweep_law(case, start[0].double().numpy(), own, 0.9))


@pytest.mark.gpu
def test_the_exact_law_is_stationary_and_another_temperature_is_noticed(device: torch.device) -> None:
    machine, n_chains = tiny_machine((3, 1, 2, 2), seed=4), 16_000
    case, law = problem(machine), enumerate_machine(machine)
    picked = torch.multinomial(
        law.probabilities, n_chains, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    start = law.states()[picked].float()
    after = case.run(start, 3, device)
    assert_samples_boltzmann(after, machine)
    assert not torch.equal(after, start)
    hotter = case.run(start, 3, device, beta=0.9)
    with pytest.raises(AssertionError, match="exact law"):
        assert_samples_boltzmann(hotter, machine)


@pytest.mark.gpu
def test_chains_reach_the_law_from_coins_with_a_clamped_partition(device: torch.device) -> None:
    """The clamp is no row of the table: its couplers are part of the constant field."""
    whole, n_chains = tiny_machine((2, 3, 2), seed=9), 16_000
    held = torch.tensor([1.0, 0.0])
    free = np.arange(2, whole.n_nodes)
    inside = (whole.topology.edges >= 2).all(axis=1)
    indices, offsets, couplers = compressed_rows(whole.topology.edges[inside] - 2, len(free))
    full = problem(whole)
    constant = torch.from_numpy(full.biases + full.matrix[:, :2] @ held.double().numpy())[2:, None]
    drawn = triton_sweeps(
        coins(n_chains, len(free)).t().to(device),
        torch.from_numpy(indices.astype(np.int32)).to(device),
        torch.from_numpy(offsets.astype(np.int32)).to(device),
        whole.couplings.detach()[torch.from_numpy(np.flatnonzero(inside)[couplers])].to(device),
        (0, 0, 3, 5),
        constant.to(device),
        torch.tensor(0.7, device=device),
        12,
        SEED,
    )
    states = torch.cat([held.repeat(n_chains, 1), drawn.t().cpu()], dim=1)
    assert_samples_boltzmann(states, whole, clamped=np.arange(whole.n_nodes) < 2, beta=0.7)


@pytest.mark.gpu
def test_every_bit_of_a_chip_follows_its_field(device: torch.device) -> None:
    """Given earlier partitions as drawn and later ones as they were, a partition is made of coins of known odds."""
    machine = BoltzmannMachine(chip_topology("zephyr", 2, (9, 20, 14, 17)))
    with torch.no_grad():
        machine.biases.copy_(0.3 * torch.randn(60, generator=torch.Generator().manual_seed(0)))
        machine.couplings.copy_(0.5 * torch.randn(len(machine.couplings), generator=torch.Generator().manual_seed(1)))
    case, start = problem(machine), coins(3_000, 60)
    end = case.run(start, 1, device).double().numpy()
    now = start.double().numpy()
    for first, stop in itertools.pairwise(case.starts):
        fields = (case.biases + now @ case.matrix)[:, first:stop]
        odds = sigmoid(fields)
        surprise, variance = end[:, first:stop] - odds, odds * (1 - odds)
        assert np.abs(surprise.sum(0) / np.sqrt(variance.sum(0))).max() < 4.5
        assert np.abs((fields * surprise).sum(0) / np.sqrt((fields**2 * variance).sum(0))).max() < 4.5
        now[:, first:stop] = end[:, first:stop]


@pytest.mark.gpu
def test_chains_and_sweeps_are_independent(device: torch.device) -> None:
    case, n_chains = flat_problem((2, 1)), 251 * 64
    once = case.run(coins(n_chains, 3), 1, device)
    twice = case.run(coins(n_chains, 3), 2, device)
    fair = np.full(64, 1 / 64)
    assert_counts(8 * numbers(once) + numbers(twice), fair)
    for lag in (1, 4, 8, 16, 32):
        first, second = (part.reshape(-1, 3) for part in once.reshape(-1, 2, lag, 3).unbind(1))
        assert_counts(8 * numbers(first) + numbers(second), fair)
    other = case.run(coins(n_chains, 3), 1, device, seed=SEED + 1)
    assert_counts(8 * numbers(once) + numbers(other), fair)


@pytest.mark.gpu
def test_draws_depend_on_seed_sweep_bit_and_chain_alone(device: torch.device) -> None:
    """37 chains fill a word and part of another; the rest of the words, and their number, change nothing."""
    case = problem(tiny_machine((3, 1, 2, 2), seed=2))
    start = coins(100, 8)
    before = start.clone()
    many = case.run(start, 2, device)
    assert torch.equal(case.run(start[:37], 2, device), many[:37])
    assert torch.equal(start, before)
    bits = case.run(start[:37].to(torch.uint8), 2, device)
    assert bits.dtype == torch.uint8
    assert torch.equal(bits.float(), many[:37])
    assert torch.equal(case.run(start, 0, device), start)


def philox(counter: tuple[int, ...], key: tuple[int, int], rounds: int) -> tuple[int, ...]:
    """Philox-4x32 in whole numbers, after Salmon et al. (2011)."""
    for index in range(rounds):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        keys = (key[0] + index * 0x9E3779B9) & WORDS32, (key[1] + index * 0xBB67AE85) & WORDS32
        counter = (
            (second >> 32) ^ counter[1] ^ keys[0],
            second & WORDS32,
            (first >> 32) ^ counter[3] ^ keys[1],
            first & WORDS32,
        )
    return counter


def test_the_oracle_of_random_numbers_has_the_published_values() -> None:
    """Known answers of Random123, the code of the authors (file kat_vectors)."""
    ones, pi = (WORDS32,) * 4, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert philox((0,) * 4, (0, 0), 7) == (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)
    assert philox((0,) * 4, (0, 0), 10) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox(ones, (WORDS32,) * 2, 10) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    assert philox(pi, (0xA4093822, 0x299F31D0), 10) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@pytest.mark.gpu
def test_random_numbers_are_philox_of_bit_chain_and_sweep(device: torch.device) -> None:
    """Without a field a bit is one if the highest of 23 random bits is zero."""
    case, n_chains = flat_problem((2, 1)), 70
    key = (SEED & WORDS32, SEED >> 32)
    for n_sweeps in (1, 2):
        drawn = case.run(coins(n_chains, 3), n_sweeps, device)
        for node, chain in itertools.product(range(3), range(n_chains)):
            word = philox((node, chain // 4, n_sweeps - 1, 0), key, 7)[chain % 4]
            assert drawn[chain, node] == 1 - ((word >> 22) & 1)


@pytest.mark.gpu
def test_huge_fields_decide_and_the_odds_of_small_ones_are_right(device: torch.device) -> None:
    case, n_chains = flat_problem((2, 1)), 64_000
    fields = torch.tensor([[1e4], [-1e4], [-6.0]])
    drawn = case.run(coins(n_chains, 3), 1, device, constant=fields)
    assert drawn[:, 0].all()
    assert not drawn[:, 1].any()
    expected = n_chains / (1 + math.exp(6))
    assert abs(float(drawn[:, 2].sum()) - expected) < 4.5 * math.sqrt(expected)


@pytest.mark.gpu
def test_wrong_shapes_are_refused(device: torch.device) -> None:
    case = flat_problem((2, 1))
    with pytest.raises(PriorError, match="constant fields"):
        case.run(coins(5, 3), 1, device, constant=torch.zeros(3, 4))
    with pytest.raises(PriorError, match="constant fields"):
        case.run(coins(5, 4), 1, device)
    with pytest.raises(PriorError, match="beta has shape"):
        case.run(coins(5, 3), 1, device, beta=torch.ones(4))
    with pytest.raises(PriorError, match="cannot be made"):
        case.run(coins(5, 3), -1, device)


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_through_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^\d+ passed, \d+ deselected in", run.stdout, re.MULTILINE), run.stdout


def test_the_table_by_hand() -> None:
    """A path 0 - 2 - 1 - 3 with partitions {0, 1}, {2}, {3}; entries past the last weight point at a zero."""
    indices = torch.tensor([2, 2, 3, 0, 1, 1], dtype=torch.int32)
    offsets = torch.tensor([0, 1, 3, 5, 6], dtype=torch.int32)
    table = NeighbourTable.of(indices, offsets, (0, 2, 3, 4))
    assert table.degrees.tolist() == [2, 2, 1]
    assert table.starts.tolist() == [0, 2, 3, 4]
    assert table.neighbours[:2].tolist() == [[2, 2, 0, 1], [0, 3, 1, 0]]
    assert table.entries.tolist() == [[0, 1, 3, 5], [6, 2, 4, 6], [6] * 4, [6] * 4]


@pytest.mark.parametrize("starts", [(0, 2, 3), (1, 4), (4,), (0, 3, 2, 4)])
def test_partitions_must_make_up_the_bits(starts: tuple[int, ...]) -> None:
    with pytest.raises(PriorError, match="do not make up 4 bits"):
        NeighbourTable.of(torch.zeros(0, dtype=torch.int32), torch.zeros(5, dtype=torch.int32), starts)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on the CPU")
def test_a_cpu_is_refused_with_a_reason() -> None:
    reason = unavailable_because(torch.device("cpu"))
    assert reason in ("it runs on a CUDA device, the machine is on cpu", "triton is not installed")
    assert not is_available(torch.device("cpu"))
    with pytest.raises(PriorError, match=reason):
        flat_problem((2, 1)).run(coins(5, 3), 1, torch.device("cpu"))


def test_triton_is_imported_when_it_is_needed() -> None:
    code = "import sys, calo4pqvae.prior.kernels.triton_sweeps as t; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_triton
def test_the_assembly_adds_the_weight_where_the_bit_is_one() -> None:
    """Its five instructions by their definitions, line by line, against the sum that they stand for."""
    from calo4pqvae.prior.kernels.triton_program import adding_assembly

    rng = np.random.default_rng(0)
    word, weight = int(rng.integers(2**32)), np.float32(0.37)
    fields = rng.normal(size=32).astype(np.float32)
    registers: dict[str, object] = {"$32": word, "$33": weight} | {f"${34 + c}": fields[c] for c in range(32)}

    def read(name: str) -> object:
        return int(name) if name.isdigit() else registers[name]

    operations = {
        "shr.u32": lambda a, b: a >> b,
        "and.b32": lambda a, b: a & b,
        "setp.ne.u32": lambda a, b: a != b,
        "add.f32": lambda a, b: np.float32(a + b),
        "selp.f32": lambda a, b, is_first: a if is_first else b,
    }
    body = adding_assembly().replace("{", "").replace("}", "")
    for line in (text.strip() for text in body.split(";")):
        if line and not line.startswith(".reg"):
            name, arguments = line.split(maxsplit=1)
            target, *sources = re.split(r",\s*", arguments)
            registers[target] = operations[name](*map(read, sources))
    expected = [fields[c] + weight if (word >> c) & 1 else fields[c] for c in range(32)]
    assert [registers[f"${c}"] for c in range(32)] == expected


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("own", [False, True])
def test_it_compiles_for_hopper(own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton carries the assembler of NVIDIA and needs no GPU to compile."""
    from triton import compile as compile_program
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from calo4pqvae.prior.kernels.triton_program import gibbs_program

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = dict.fromkeys(("values", "result", "constant", "rates"), "*fp32") | {"pairs": "*i64"}
    pointers |= dict.fromkeys(("words", "degrees", "starts"), "*i32")
    scalars = {"seed": "i64"} | dict.fromkeys(("n_chains", "n_nodes", "n_sweeps", "n_partitions"), "i32")
    constants = {"CHAIN_FIELD": own, "CHAIN_RATE": own, "NODES": 256, "WORDS": 1, "ASSEMBLY": True}
    source = ASTSource(gibbs_program, pointers | scalars | dict.fromkeys(constants, "constexpr"), constants)
    options = {"num_warps": 8, "enable_fp_fusion": True, "maxnreg": 128}
    compiled = compile_program(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert len(compiled.asm["cubin"]) > 10_000
    ptx = compiled.asm["ptx"]
    assert "ld.global.nc" not in ptx  # words change while they are read: no read-only path
    assert ptx.count("bar.sync") >= 2
