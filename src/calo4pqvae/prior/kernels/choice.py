r"""Which kernel makes the sweeps: by name, or by what it would cost.

Costs of a sweep in nanoseconds, for n free bits of mean degree d, P partitions and C chains, from measurements on one
x86-64 core with AVX-512 (``benchmarks/prior_kernels.py`` measures them again):

- ``packed``: :math:`100{,}000 + 64 \lceil C / 64 \rceil\, n\, (0.11 + 0.006 d)`;
- ``torch-sparse``: :math:`20{,}000\, P + C n\, (1.5 + 0.11 d)`;
- ``torch-dense``: :math:`20{,}000\, P + C n\, (1.5 + 0.01 n)`.

They are used to compare, so that their ratios matter and not their size. All kernels draw from the same law. What was
chosen, and why, is part of the result.

``packed`` sums integers whose steps follow the largest parameters of a bit. If one coupling is 1e8, the others lose
what they say about chains in which it is silent; with one of 1e6 they lose less than 1e-3. Beyond that it is not taken.
"""

import importlib.util
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from calo4pqvae.errors import ConfigError
from calo4pqvae.prior.kernels.triton_sweeps import unavailable_because

__all__ = ["LARGEST_OF_INTEGERS", "KernelChoice", "KernelName", "Workload", "choose_kernel"]

KernelName = Literal["auto", "packed", "torch", "torch-sparse", "torch-dense", "triton"]

LARGEST_OF_INTEGERS = 1e6
"""Couplings and fields, times beta, that integer sums hold beside others of order one."""


@dataclass(frozen=True)
class Workload:
    """Size of a call.

    Args:
        n_free: Free bits.
        mean_degree: Mean number of neighbours of a free bit.
        n_chains: Chains.
        n_partitions: Partitions of the graph.
        largest: Largest coupling or field, times beta.
    """

    n_free: int
    mean_degree: float
    n_chains: int
    n_partitions: int
    largest: float = 0.0

    def costs(self) -> dict[KernelName, float]:
        """Estimated nanoseconds of a sweep on one CPU core."""
        updates = self.n_chains * self.n_free
        full = 64 * -(-self.n_chains // 64) * self.n_free
        start = 20_000.0 * self.n_partitions
        return {
            "packed": 100_000.0 + full * (0.11 + 0.006 * self.mean_degree),
            "torch-sparse": start + updates * (1.5 + 0.11 * self.mean_degree),
            "torch-dense": start + updates * (1.5 + 0.01 * self.n_free),
        }


@dataclass(frozen=True)
class KernelChoice:
    """The kernel that made the sweeps.

    Args:
        name: Its name.
        reason: Why it was taken; names what is missing if it is a fallback.
    """

    name: KernelName
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def choose_kernel(wanted: KernelName, device: torch.device, workload: Workload) -> KernelChoice:
    """Takes the named kernel, or the cheapest for ``"auto"``.

    Args:
        wanted: Name of a kernel, or ``"auto"``.
        device: Where the machine is.
        workload: Size of the call.

    Raises:
        ConfigError: If the name is unknown, or the kernel cannot run here.
    """
    if wanted not in get_args(KernelName):
        raise ConfigError(f"kernel '{wanted}' does not exist; kernels are {', '.join(get_args(KernelName))}")
    if wanted != "auto":
        lack = _lack(wanted, device, workload)
        if lack:
            raise ConfigError(f"kernel '{wanted}' cannot run here: {lack}; choose another kernel, or auto")
        return KernelChoice(wanted, "asked for")
    return _cheapest(device, workload)


def _cheapest(device: torch.device, workload: Workload) -> KernelChoice:
    fast: KernelName = "packed" if device.type == "cpu" else "triton"
    lack = _lack(fast, device, workload)
    if lack:
        return KernelChoice("torch", f"fallback from {fast}: {lack}")
    if fast == "triton":
        return KernelChoice("triton", "fastest on this device")
    costs = workload.costs()
    name = min(costs, key=lambda key: costs[key])
    others = ", ".join(f"{key} {cost / 1e3:.0f}" for key, cost in costs.items())
    return KernelChoice(name, f"least estimated cost (microseconds a sweep: {others})")


def _lack(name: KernelName, device: torch.device, workload: Workload) -> str:
    """Why a kernel cannot run on a device; empty if it can."""
    if name == "packed":
        if workload.largest > LARGEST_OF_INTEGERS:
            return f"couplings or fields of {workload.largest:.0e} leave its integer sums too coarse for small ones"
        if device.type != "cpu":
            return f"it runs on the CPU, the machine is on {device}"
        return "" if importlib.util.find_spec("numba") else "numba is not installed"
    if name == "triton":
        return unavailable_because(device) or ""
    return ""
