r"""The Boltzmann machine over latent bits: parameters, energy, fields and sufficient statistics.

Bits :math:`z \in \{0, 1\}^N` on the nodes of a :class:`~calo4pqvae.prior.graph.topology.Topology`, a condition
:math:`c \in R^{n_c}` (which may be empty), and

.. math::
    E(z | c) = -\sum_i b_i z_i - \sum_{i<j} W_{ij} z_i z_j - \sum_{a, i} c_a A_{ai} z_i, \qquad
    p(z | c) = e^{-E(z | c)} / Z(c),

the second sum over the couplers of the graph. The trained law is at inverse temperature one. The field on
node i is

.. math:: f_i(z | c) = b_i + \sum_a c_a A_{ai} + \sum_{j \sim i} W_{ij} z_j, \qquad p(z_i = 1 | rest) = \sigma(f_i).

There are two ways to condition, alone or together. A partition can be clamped to bits that code the condition; it is
then part of the graph and costs qubits. Or the condition is folded into the fields through :math:`A`, which costs
none: on an annealer it is a different field for each event. Only :math:`p(z | c)` is ever modelled: the biases of
clamped nodes and :math:`Z(c)` say nothing about how often a condition occurs.

The machine knows energies and moments. Samplers (:mod:`~calo4pqvae.prior.sampling.gibbs`) hold a reference to it,
their states are values of their own, and learning rules (:mod:`~calo4pqvae.prior.learning.learner`) combine the
three.
"""

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.pairs import Neighbours, coupling_field, pair_sums
from calo4pqvae.prior.graph.topology import Topology

__all__ = ["BoltzmannMachine", "Moments"]

_COUNT_FROM = 1_000_000  # products from which counting in words beats float sums by more than it takes to get ready


@dataclass(frozen=True)
class Moments:
    r"""Means of the sufficient statistics over a batch.

    Args:
        first: :math:`\langle z_i \rangle`, shape (N,).
        second: :math:`\langle z_i z_j \rangle` over the couplers, shape (M,).
        cross: :math:`\langle c_a z_i \rangle`, shape (n_c, N); None without a condition.
        condition: :math:`\langle c_a \rangle`, shape (n_c,); None without a condition.
    """

    first: Tensor
    second: Tensor
    cross: Tensor | None = None
    condition: Tensor | None = None


class BoltzmannMachine(nn.Module):
    """A Boltzmann machine on a graph, optionally with a condition folded into its fields.

    Biases and couplings start at zero; :meth:`initialise` puts them where training should begin.

    Args:
        topology: The graph.
        n_condition: Length of the condition; 0 leaves ``condition_weights`` out.

    Attributes:
        biases: b, shape (N,).
        couplings: W, one number a coupler in the order of ``topology.edges``, shape (M,).
        condition_weights: A, shape (n_c, N), or None.

    Raises:
        PriorError: If ``n_condition`` is negative.
    """

    def __init__(self, topology: Topology, n_condition: int = 0) -> None:
        super().__init__()
        if n_condition < 0:
            raise PriorError(f"a condition of length {n_condition} does not exist; give 0 or more")
        self.topology = topology
        self.n_condition = n_condition
        self.biases = nn.Parameter(torch.zeros(topology.n_nodes))
        self.couplings = nn.Parameter(torch.zeros(topology.n_edges))
        self.condition_weights: nn.Parameter | None
        if n_condition:
            self.condition_weights = nn.Parameter(torch.zeros(n_condition, topology.n_nodes))
        else:
            self.register_parameter("condition_weights", None)
        self._neighbours = Neighbours.of(topology)

    @property
    def n_nodes(self) -> int:
        """Number of bits N."""
        return self.topology.n_nodes

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.biases.device

    @property
    def neighbours(self) -> Neighbours:
        """The graph as lists, on the device of the parameters."""
        if self._neighbours.ends.device != self.device:
            self._neighbours = self._neighbours.to(self.device)
        return self._neighbours

    @torch.no_grad()
    def initialise(
        self, data_means: Tensor, coupling_std: float, generator: torch.Generator, smoothing: float = 1e-3
    ) -> None:
        r"""Starts at independent bits with the data's means, plus small random couplings.

        .. math:: b_i = \mathrm{logit}\big((1 - \epsilon) \bar z_i + \epsilon / 2\big), \qquad
            W_{ij} \sim N(0, s^2).

        Args:
            data_means: Mean of every bit over the data, shape (N,).
            coupling_std: s; small against 1/sqrt(degree), so that learning starts in the paramagnet.
            generator: Source of the couplings, on the CPU.
            smoothing: epsilon, which keeps constant bits at finite fields.

        Raises:
            PriorError: If the means have a wrong shape or lie outside [0, 1].
        """
        means = data_means.detach().to(self.biases)
        if means.shape != self.biases.shape or not bool(((means >= 0) & (means <= 1)).all()):
            raise PriorError(f"data means must be {self.n_nodes} numbers in [0, 1]; give the mean of every bit")
        self.biases.copy_(torch.logit((1 - smoothing) * means + smoothing / 2))
        noise = torch.randn(self.couplings.shape, generator=generator, dtype=torch.float64)
        self.couplings.copy_(coupling_std * noise)
        if self.condition_weights is not None:
            self.condition_weights.zero_()

    def fields(self, condition: Tensor | None = None) -> Tensor:
        """Fields without the couplers, b + c A.

        Args:
            condition: c, shape (B, n_c), if and only if the machine has one.

        Returns:
            Fields (B, N), or (N,) for a machine without a condition.

        Raises:
            PriorError: If the condition is missing, superfluous or of the wrong shape.
        """
        if self.condition_weights is None:
            if condition is not None:
                raise PriorError("this machine takes no condition; build it with n_condition or pass none")
            return self.biases
        if condition is None:
            raise PriorError(f"this machine needs a condition of {self.n_condition} numbers a state; pass it")
        if condition.ndim != 2 or condition.shape[1] != self.n_condition:
            raise PriorError(f"condition has shape {tuple(condition.shape)}; it must be (states, {self.n_condition})")
        return self.biases + condition.to(self.biases) @ self.condition_weights

    def local_fields(self, states: Tensor, condition: Tensor | None = None) -> Tensor:
        """Field on every node given the others, f = b + c A + W z.

        Args:
            states: Bits or relaxed bits (B, N).
            condition: c, shape (B, n_c), if the machine has one.

        Returns:
            Fields (B, N), the log-odds of each bit given the rest.

        Raises:
            PriorError: If a shape does not fit.
        """
        values = self._values(states, condition)
        return self.fields(condition) + coupling_field(values, self.couplings, self.neighbours)

    def energy(self, states: Tensor, condition: Tensor | None = None) -> Tensor:
        """Energy E(z | c) in nats, differentiable in parameters, condition and (relaxed) states.

        Args:
            states: Bits or relaxed bits (B, N).
            condition: c, shape (B, n_c), if the machine has one.

        Returns:
            Energies (B,).

        Raises:
            PriorError: If a shape does not fit.
        """
        values = self._values(states, condition)
        half = coupling_field(values, self.couplings, self.neighbours) / 2
        return -(values * (self.fields(condition) + half)).sum(dim=1)

    @torch.no_grad()
    def sufficient_statistics(self, states: Tensor, condition: Tensor | None = None) -> Moments:
        """Batch means of z_i, z_i z_j and c_a z_i, without gradient.

        Args:
            states: Bits (B, N), B at least one.
            condition: c, shape (B, n_c), if the machine has one.

        Raises:
            PriorError: If a shape does not fit or there is no state.
        """
        values = self._values(states, condition)
        n_states = len(values)
        if n_states == 0:
            raise PriorError("there are no states to average over; give at least one")
        first, second = self._moments(values)
        if self.condition_weights is None or condition is None:
            return Moments(first, second)
        weights = condition.to(values)
        return Moments(first, second, weights.t() @ values / n_states, weights.mean(dim=0))

    def _moments(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Means of bits and of products over the couplers: counted in words where values are bits on the CPU."""
        if values.device.type == "cpu" and len(values) * self.topology.n_edges >= _COUNT_FROM and find_spec("numba"):
            from calo4pqvae.prior.kernels.packing import pack, pair_counts

            words = pack(values.float())
            if words is not None:
                ones, both = (torch.from_numpy(part).to(values) for part in pair_counts(words, self.topology.edges))
                return ones / len(values), both / len(values)
        return values.mean(dim=0), pair_sums(values, values, self.neighbours) / len(values)

    def check_finite(self) -> None:
        """Refuses parameters that are not numbers.

        Raises:
            PriorError: If a parameter is NaN or infinite.
        """
        for name, parameter in self.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise PriorError(
                    f"{name} of the machine hold NaN or infinity; go back to an earlier checkpoint and learn slower"
                )

    def _values(self, states: Tensor, condition: Tensor | None) -> Tensor:
        if states.ndim != 2 or states.shape[1] != self.n_nodes:
            raise PriorError(f"states have shape {tuple(states.shape)}; they must be (states, {self.n_nodes})")
        if condition is not None and len(condition) != len(states):
            raise PriorError(f"{len(condition)} conditions for {len(states)} states; give one for each")
        if self.condition_weights is not None or condition is not None:
            self.fields(None if condition is None else condition[:1])
        return states.to(self.biases)
