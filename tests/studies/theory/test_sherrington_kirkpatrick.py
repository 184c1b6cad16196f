r"""The phase diagram against limits that are known in closed form, and its integrals against adaptive quadrature."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad

from calo4pqvae.errors import PriorError
from calo4pqvae.studies.theory.sherrington_kirkpatrick import (
    ZERO_TEMPERATURE_FERROMAGNET,
    almeida_thouless_line,
    ferromagnet_line,
    field_moments,
    glass_ferromagnet_line,
    phase_of,
    replica_symmetric,
)


@pytest.mark.parametrize(("mu", "width"), [(0.0, 0.3), (0.7, 1.0), (2.0, 8.0), (0.0, 60.0), (5.0, 200.0), (1.1, 0.0)])
def test_integrals_against_adaptive_quadrature(mu: float, width: float) -> None:
    step = -mu / width if width else 0.0
    for power, found in zip((1, 2, 4), field_moments(mu, width), strict=True):

        def integrand(z: float, power: int = power) -> float:
            u = mu + width * z
            value = (1 - math.tanh(u) ** 2) ** 2 if power == 4 else math.tanh(u) ** power
            return value * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

        near = 30 / width if width else 1.0
        cuts = sorted(
            {-10.0, *np.clip([step - near, step - near / 9, step, step + near / 9, step + near], -10, 10), 10.0}
        )
        expected = sum(quad(integrand, a, b, epsabs=1e-14, limit=200)[0] for a, b in itertools.pairwise(cuts))
        assert found == pytest.approx(expected, abs=2e-10)


def test_spin_glass_point_is_at_the_width_of_the_couplings() -> None:
    assert replica_symmetric(0.0, 1.001).overlap == 0.0
    below = replica_symmetric(0.0, 0.99)
    assert below.magnetisation == 0.0
    assert below.overlap == pytest.approx(0.01, rel=0.02)  # q -> 1 - kT, the first term of the expansion


def test_ferromagnet_appears_at_its_line() -> None:
    temperatures = np.array([1.2, 2.0, 5.0])
    lines = ferromagnet_line(temperatures)
    assert lines.tolist() == temperatures.tolist()
    for kt, line in zip(temperatures.tolist(), lines.tolist(), strict=True):
        assert replica_symmetric(0.995 * line, kt).magnetisation == 0.0
        assert replica_symmetric(1.005 * line, kt).magnetisation > 0.03
    with pytest.raises(PriorError, match="kT / J~ >= 1"):
        ferromagnet_line([0.9])


def test_curie_weiss_without_disorder_in_reach() -> None:
    """At J0~ much larger than J~ the magnetisation is that of m = tanh(J0 m / kT)."""
    m = 0.5
    for _ in range(300):
        m = math.tanh(1.4 * m)
    assert replica_symmetric(1400.0, 1000.0).magnetisation == pytest.approx(m, abs=1e-5)


def test_overlap_at_low_temperature() -> None:
    """q = 1 - sqrt(2 / pi) kT / J~ without ferromagnetic couplings: the density of fields at zero."""
    for kt in (0.02, 0.005):
        assert (1 - replica_symmetric(0.0, kt).overlap) / kt == pytest.approx(math.sqrt(2 / math.pi), rel=2 * kt)


def test_glass_ferromagnet_line_ends() -> None:
    j0, kt = glass_ferromagnet_line([1e-3, 1e4])
    assert (j0[0], kt[0]) == (pytest.approx(1.0, abs=1e-5), pytest.approx(1.0, abs=1e-5))
    assert j0[1] == pytest.approx(math.sqrt(math.pi / 2), rel=float(kt[1]))  # the correction is linear in kT
    assert pytest.approx(math.sqrt(math.pi / 2)) == ZERO_TEMPERATURE_FERROMAGNET
    assert kt[1] < 1e-3


def test_glass_ferromagnet_line_is_where_the_magnetisation_begins() -> None:
    j0, kt = (float(part[0]) for part in glass_ferromagnet_line([1.3]))
    assert kt < 1
    assert replica_symmetric(j0 - 0.01, kt).magnetisation == 0.0
    assert replica_symmetric(j0 + 0.01, kt).magnetisation > 0.02


def test_line_of_almeida_and_thouless_near_the_critical_point() -> None:
    """(h / J~)^2 = 4/3 (1 - kT / J~)^3, with corrections of the order of the distance."""
    for width in (0.02, 0.05):
        kt, j0, field = (float(part[0]) for part in almeida_thouless_line([width]))
        assert field**2 == pytest.approx(4 / 3 * (1 - kt) ** 3, rel=6 * (1 - kt))
        assert j0 == pytest.approx(1.0, abs=0.1)


def test_line_of_almeida_and_thouless_at_low_temperature() -> None:
    """kT = 4 / (3 sqrt(2 pi)) exp(-h^2 / 2), and the same with J0~ in the place of h as the spins are all up."""
    kt, j0, field = (part[0] for part in almeida_thouless_line([1000.0]))
    limit = 4 / (3 * math.sqrt(2 * math.pi))
    assert kt == pytest.approx(limit * math.exp(-(field**2) / 2), rel=1e-3)
    assert kt == pytest.approx(limit * math.exp(-(j0**2) / 2), rel=0.05)


@pytest.mark.parametrize("width", [0.3, 1.0, 3.0])
def test_line_of_almeida_and_thouless_is_marginal(width: float) -> None:
    """On the line the replica-symmetric solution, found by another route, has the stability one."""
    kt, j0, field = (float(part[0]) for part in almeida_thouless_line([width]))
    assert replica_symmetric(j0, kt).stability == pytest.approx(1.0, abs=1e-5)
    assert replica_symmetric(0.0, kt, field).stability == pytest.approx(1.0, abs=1e-5)
    assert replica_symmetric(0.0, kt, 1.05 * field).stability < 1 < replica_symmetric(0.0, kt, 0.95 * field).stability


def test_phases_around_the_diagram() -> None:
    assert [phase_of(*point) for point in ((0.0, 1.5), (2.0, 1.5), (0.5, 0.5), (2.5, 0.5), (1.3, 0.05))] == [
        "paramagnet",
        "ferromagnet",
        "spin glass",
        "ferromagnet",
        "mixed",
    ]


def test_points_outside_the_diagram_are_refused() -> None:
    with pytest.raises(PriorError, match="give kT > 0"):
        replica_symmetric(0.0, 0.0)
    with pytest.raises(PriorError, match="0 or more"):
        field_moments(0.0, -1.0)
