r"""Directions of ascent of the log-likelihood: the contrastive gradient, plain and centred, and two historical forms.

The log-likelihood :math:`L = \langle \ln p(z | c) \rangle_d` of data (d) under the model (m) has the gradient

.. math::
    \partial_{b_i} L = \langle z_i \rangle_d - \langle z_i \rangle_m, \quad
    \partial_{W_{ij}} L = \langle z_i z_j \rangle_d - \langle z_i z_j \rangle_m, \quad
    \partial_{A_{ai}} L = \langle c_a z_i \rangle_d - \langle c_a z_i \rangle_m .

**Centred form.** Write the same machine with bits :math:`z_i - \mu_i` and conditions :math:`c_a - \nu_a`, follow
the gradient there and go back. With :math:`\Delta[x] = \langle x \rangle_d - \langle x \rangle_m`,

.. math::
    \delta W_{ij} = \Delta[(z_i - \mu_i)(z_j - \mu_j)], \quad \delta A_{ai} = \Delta[(c_a - \nu_a)(z_i - \mu_i)], \\
    \delta b_i = \Delta[z_i] - \sum_{j \sim i} \delta W_{ij} \mu_j - \sum_a \delta A_{ai} \nu_a ,

which vanishes where the plain gradient does, does not depend on which state of a bit is called one, and
learns faster. The offsets are moving averages of the data's means: offsets that follow the model as well can
diverge.

**Mean-energy form** (called the high-temperature gradient in earlier work). Take :math:`-\langle E \rangle_m` for
:math:`\ln Z`, from which it differs by the entropy :math:`S`, and differentiate all of it, the law as well:

.. math::
    \partial_\theta \langle E \rangle_m
    = \langle \partial_\theta E \rangle_m - \beta\,\mathrm{Cov}_m(E, \partial_\theta E), \qquad
    \mathrm{Cov}_m(E, \partial_\theta E) = \langle E\,\partial_\theta E \rangle_m
    - \langle E \rangle_m \langle \partial_\theta E \rangle_m = -\partial_\theta S / \beta .

At :math:`\beta = 1` the direction :math:`-\partial_\theta (\langle E \rangle_d - \langle E \rangle_m)` is therefore
the contrastive gradient minus :math:`\mathrm{Cov}_m(E, \partial_\theta E)`; with :math:`\partial_{W_{ij}} E = -z_i z_j`
and :math:`\partial_{b_i} E = -z_i` that is

.. math::
    \delta W_{ij} = \Delta[z_i z_j] + \mathrm{Cov}_m(E, z_i z_j), \qquad
    \delta b_i = \Delta[z_i] + \mathrm{Cov}_m(E, z_i) .

Over several conditions c (or clamped values) the law is that of the bits at one condition, and the covariance is the
mean over conditions of the one at each. It is taken from twins, two independent samples z, z' at the same condition:

.. math::
    \mathrm{Cov}_m(E, \partial_\theta E \mid c)
    = \tfrac12 \langle (E(z) - E(z'))\,(\partial_\theta E(z) - \partial_\theta E(z')) \rangle .

It climbs the likelihood where :math:`\epsilon = \mathrm{Cov}_m(E, \partial_\theta E) / \langle \partial_\theta E
\rangle_m` vanishes, which it does in proportion to :math:`\beta` at high temperature and nowhere else: it does not
stand still at a machine that has learned its data. It is there to be compared with. (A program that holds its samples
fixed and lets automatic differentiation run through :math:`E(z; \theta)` gets no covariance: that is the contrastive
gradient exactly.)

**Mean-field form**: products of means, :math:`\delta W_{ij} = \langle z_i \rangle_d \langle z_j \rangle_d -
\langle z_i \rangle_m \langle z_j \rangle_m`, in place of means of products. It sees no correlation at all. It too is
there to be compared with.

**Clamped bits** (the condition's partition) have the same values in data and model. They are given, not
learned: their biases and the couplers between two of them do not move, while couplers from them to free bits
follow the conditional likelihood.

Relaxed bits have other second moments than bits and do not belong here. Probabilities do, for bits that are independent
given all others (:mod:`calo4pqvae.prior.learning.hidden`).

Melchior, Fischer and Wiskott, "How to center deep Boltzmann machines", JMLR 17(99) (2016).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.pairs import Neighbours, pair_sums, products, sums_at_nodes
from calo4pqvae.prior.machine import BoltzmannMachine, Moments

__all__ = [
    "GRADIENT_FORMS",
    "Gradient",
    "GradientForm",
    "Offsets",
    "contrastive_gradient",
    "energy_covariance",
    "mean_energy_gradient",
    "mean_field_gradient",
    "twin_covariance",
]

GradientForm = Literal["plain", "centred", "mean-energy", "mean-field"]
"""Names of the forms that a learner can follow."""

GRADIENT_FORMS: tuple[str, ...] = get_args(GradientForm)


@dataclass(frozen=True)
class Gradient:
    """A direction of ascent, shaped like the parameters of the machine."""

    biases: Tensor
    couplings: Tensor
    condition_weights: Tensor | None = None

    def hold(self, clamped: Tensor, ends: Tensor) -> "Gradient":
        """Stops what conditional data cannot determine: biases of clamped bits, couplers between two of them.

        Args:
            clamped: Mask (N,).
            ends: Couplers (M, 2).
        """
        weights = self.condition_weights
        return Gradient(
            self.biases.masked_fill(clamped, 0.0),
            self.couplings.masked_fill(clamped[ends].all(dim=1), 0.0),
            None if weights is None else weights.masked_fill(clamped, 0.0),
        )

    @property
    def norm(self) -> float:
        """Euclidean length over all parameters."""
        parts = [self.biases, self.couplings]
        parts += [] if self.condition_weights is None else [self.condition_weights]
        return float(torch.stack([part.square().sum() for part in parts]).sum().sqrt())


@dataclass(frozen=True)
class Offsets:
    """What the centred gradient subtracts: of the bits (N,), and of the condition (n_c,) if there is one."""

    bits: Tensor
    condition: Tensor | None = None

    def moved(self, data: Moments, rate: float) -> "Offsets":
        """The moving average after another batch."""
        condition = self.condition
        if condition is not None and data.condition is not None:
            condition = torch.lerp(condition, data.condition, rate)
        return Offsets(torch.lerp(self.bits, data.first, rate), condition)


def contrastive_gradient(
    data: Moments,
    model: Moments,
    neighbours: Neighbours,
    form: Literal["plain", "centred"] = "plain",
    offsets: Offsets | None = None,
) -> Gradient:
    """Direction of ascent of the log-likelihood, from second moments of bits; formulas in the module docstring.

    Args:
        data: Moments of the data.
        model: Moments of the model's samples.
        neighbours: The graph, on the device of the moments.
        form: ``"plain"`` or ``"centred"``.
        offsets: Offsets of the centred form; the data's own means if None.
    """
    biases = data.first - model.first
    couplings = data.second - model.second
    weights = _difference(data.cross, model.cross)
    if form == "plain":
        return Gradient(biases, couplings, weights)
    offsets = offsets or Offsets(data.first, data.condition)
    mu, nu = offsets.bits, offsets.condition
    couplings = couplings - products(mu, biases, neighbours) - products(biases, mu, neighbours)
    shift = sums_at_nodes(couplings, mu, neighbours)
    drift = _difference(data.condition, model.condition)
    if weights is not None and drift is not None and nu is not None:
        weights = weights - nu[:, None] * biases - drift[:, None] * mu
        shift += nu @ weights
    return Gradient(biases - shift, couplings, weights)


@torch.no_grad()
def energy_covariance(machine: BoltzmannMachine, states: Tensor, weights: Tensor | None = None) -> Moments:
    r"""Covariances :math:`\mathrm{Cov}(E, z_i)` and :math:`\mathrm{Cov}(E, z_i z_j)` of the energy, in nats.

    Args:
        machine: A machine without a condition: under different conditions the covariance would be that of the
            conditions as well.
        states: Bits (B, N).
        weights: Probability of every state (B,); equal ones if None.

    Returns:
        First (N,) and second (M,) covariances.

    Raises:
        PriorError: If the machine has a condition or a shape does not fit.
    """
    if machine.n_condition:
        raise PriorError("the covariance with the energy is not defined over several conditions; use another gradient")
    energies = machine.energy(states)
    values = states.to(energies)
    shares = torch.full_like(energies, 1 / len(values)) if weights is None else weights.to(energies)
    centred = (shares * (energies - shares @ energies))[:, None] * values
    return Moments(centred.sum(dim=0), pair_sums(centred, values, machine.neighbours))


@torch.no_grad()
def twin_covariance(
    machine: BoltzmannMachine, states: Tensor, twins: Tensor, condition: Tensor | None = None
) -> Moments:
    r"""Covariances of the energy at fixed conditions, from pairs of independent states; formula in the module's text.

    Args:
        machine: The machine.
        states: Bits (B, N).
        twins: Bits (B, N), each drawn at the clamped values and the condition of its partner.
        condition: Conditions (B, n_c), if the machine has a condition.

    Returns:
        Covariances with z_i (N,), with z_i z_j (M,), and with c_a z_i (n_c, N) if there is a condition.

    Raises:
        PriorError: If a shape does not fit.
    """
    halves = (machine.energy(states, condition) - machine.energy(twins, condition)) / (2 * len(states))
    ours, theirs = states.to(halves), twins.to(halves)
    first = halves @ (ours - theirs)
    neighbours = machine.neighbours
    second = pair_sums(halves[:, None] * ours, ours, neighbours) - pair_sums(
        halves[:, None] * theirs, theirs, neighbours
    )
    if machine.condition_weights is None or condition is None:
        return Moments(first, second)
    return Moments(first, second, (halves[:, None] * condition.to(halves)).t() @ (ours - theirs))


def mean_energy_gradient(data: Moments, model: Moments, covariance: Moments) -> Gradient:
    r"""The direction :math:`-\partial_\theta (\langle E \rangle_d - \langle E \rangle_m)`, the law differentiated too.

    Args:
        data: Moments of the data.
        model: Moments of the model's samples.
        covariance: :func:`energy_covariance` of the model's samples, or :func:`twin_covariance` over conditions.
    """
    weights = _difference(data.cross, model.cross)
    return Gradient(
        data.first - model.first + covariance.first,
        data.second - model.second + covariance.second,
        weights if weights is None or covariance.cross is None else weights + covariance.cross,
    )


def mean_field_gradient(data: Moments, model: Moments, neighbours: Neighbours) -> Gradient:
    """Differences of products of means.

    Args:
        data: Moments of the data; only the first ones are used.
        model: Moments of the model's samples.
        neighbours: The graph, on the device of the moments.
    """
    own, other = products(data.first, data.first, neighbours), products(model.first, model.first, neighbours)
    weights = None
    if data.condition is not None and model.condition is not None:
        weights = torch.outer(data.condition, data.first) - torch.outer(model.condition, model.first)
    return Gradient(data.first - model.first, own - other, weights)


def _difference(data: Tensor | None, model: Tensor | None) -> Tensor | None:
    return None if data is None or model is None else data - model
