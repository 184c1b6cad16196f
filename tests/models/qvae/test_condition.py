import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.condition import CodeKind, EnergyCode
from calo4pqvae.showers.energies import check_energies

LOW, HIGH = 1e3, 1e6
KINDS: tuple[CodeKind, ...] = ("thermometer", "gray")
SIZES = [1, 2, 5, 12, 13, 96, 302]


def scan(n: int = 40_001) -> Tensor:
    """Energies at even steps of the logarithm, ends included."""
    return torch.linspace(math.log(LOW), math.log(HIGH), n, dtype=torch.float64).exp().clamp(LOW, HIGH)[:, None]


def step(code: EnergyCode) -> float:
    """Width of one interval of ln E."""
    n = code.n_bits if code.kind == "thermometer" else 2 ** min(code.n_bits, 12)
    return math.log(HIGH / LOW) / n


@pytest.mark.parametrize("n_bits", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_is_constant_and_all_codes_occur(kind: CodeKind, n_bits: int) -> None:
    code = EnergyCode(kind, n_bits, LOW, HIGH)
    bits = code.encode(scan())
    assert bits.dtype == torch.float32
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    means = bits.mean(0)
    assert means.min() > 0
    assert means.max() < 1
    assert len(torch.unique(bits, dim=0)) == code.n_values


@pytest.mark.parametrize("n_bits", SIZES)
def test_thermometer_only_rises_and_by_one_bit_at_a_time(n_bits: int) -> None:
    bits = EnergyCode("thermometer", n_bits, LOW, HIGH).encode(scan())
    rises = bits.diff(dim=0)
    assert rises.min() == 0
    assert rises.sum(1).max() == 1
    assert bits[0].sum() == 0
    assert bits[-1].sum() == n_bits


def test_thermometer_thresholds_are_evenly_spaced() -> None:
    bits = EnergyCode("thermometer", 5, LOW, HIGH).encode(scan())
    shares = sorted(bits.double().mean(0).tolist())
    assert shares == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=1e-4)


def test_neighbouring_thermometer_nodes_see_different_parts_of_the_range() -> None:
    """Dealt in golden-ratio order: any eight nodes in a row have thresholds in every quarter of the range."""
    shares = EnergyCode("thermometer", 96, LOW, HIGH).encode(scan()).double().mean(0).numpy()
    for first in range(96 - 8):
        assert len(np.unique((shares[first : first + 8] * 4).astype(int))) == 4


@pytest.mark.parametrize("n_bits", [2, 5, 12])
def test_neighbouring_gray_codes_differ_in_one_bit(n_bits: int) -> None:
    bits = EnergyCode("gray", n_bits, LOW, HIGH).encode(scan())
    changes = bits.diff(dim=0).abs().sum(1)
    assert changes.max() == 1
    assert int(changes.sum()) == 2**n_bits - 1


def test_gray_code_of_three_bits_is_the_known_one() -> None:
    middles = torch.exp(math.log(LOW) + (torch.arange(8).double() + 0.5) / 8 * math.log(HIGH / LOW))[:, None]
    bits = EnergyCode("gray", 3, LOW, HIGH).encode(middles)
    written = ["".join(str(int(bit)) for bit in row.flip(0)) for row in bits]  # highest bit last in the code
    assert written == ["000", "001", "011", "010", "110", "111", "101", "100"]


def test_long_gray_codes_repeat() -> None:
    bits = EnergyCode("gray", 30, LOW, HIGH).encode(scan(501))
    assert torch.equal(bits[:, :12], bits[:, 12:24])
    assert torch.equal(bits[:, :6], bits[:, 24:])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(position=st.floats(0, 1), n_bits=st.integers(1, 64), high=st.floats(1.5e3, 1e7))
def test_decoding_comes_back_within_half_a_step(kind: CodeKind, position: float, n_bits: int, high: float) -> None:
    code = EnergyCode(kind, n_bits, LOW, high)
    energy = torch.tensor([[LOW * (high / LOW) ** position]], dtype=torch.float64)
    back = code.decode(code.encode(energy))
    n = n_bits if kind == "thermometer" else 2 ** min(n_bits, 12)
    assert back.shape == (1, 1)
    assert abs(math.log(float(back / energy))) <= 0.5 * math.log(high / LOW) / n + 1e-9


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(first=st.floats(LOW, HIGH), second=st.floats(LOW, HIGH))
def test_order_of_energies_is_kept(kind: CodeKind, first: float, second: float) -> None:
    code = EnergyCode(kind, 24, LOW, HIGH)
    low, high = sorted((first, second))
    decoded = code.decode(code.encode(torch.tensor([[low], [high]], dtype=torch.float64)))
    assert decoded[0] <= decoded[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_bits", [1, 7, 40])
def test_every_code_decodes_to_an_energy_that_has_that_code(kind: CodeKind, n_bits: int) -> None:
    code = EnergyCode(kind, n_bits, LOW, HIGH)
    bits = code.encode(scan(20_001))
    inside = code.decode(bits).clamp(LOW, HIGH)
    again = code.encode(inside)
    assert torch.equal(code.decode(again), code.decode(bits))
    assert (code.decode(bits).log() - scan(20_001).log()).abs().max() <= step(code) / 2 + 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_ends_stored_in_single_precision_are_inside(kind: CodeKind) -> None:
    low, high = 0.1, 1234567.1
    code = EnergyCode(kind, 9, low, high)
    ends = torch.tensor([[low], [high]], dtype=torch.float32)
    assert ends[0].item() != low
    assert torch.isfinite(code.encode(ends)).all()


@pytest.mark.parametrize(
    ("energies", "named"),
    [([5e3, 999.0], "999"), ([5e3, 1.01e6], "1.01e\\+06"), ([-4.0], "-4"), ([999.9999, 2e6], "2e\\+06")],
)
def test_energy_out_of_range_is_named(energies: list[float], named: str) -> None:
    for kind in KINDS:
        with pytest.raises(DataError, match=f"incident energy {named} MeV is outside the range 1000 to 1e"):
            EnergyCode(kind, 8, LOW, HIGH).encode(torch.tensor(energies, dtype=torch.float64)[:, None])


@pytest.mark.parametrize("energy", [math.nan, math.inf, -math.inf])
def test_energies_that_are_no_numbers_are_refused(energy: float) -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        check_energies(torch.tensor([[2e3], [energy]]), LOW, HIGH)
