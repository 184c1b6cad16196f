"""The compiled law of splits as a function that gradients pass."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from calo4pqvae.models.qvae.cascade.kernels.likelihood import split_gradients, split_log_likelihoods
from calo4pqvae.models.qvae.cascade.law import BIN_WIDTH

__all__ = ["split_log_likelihood"]


class _SplitLogLikelihood(torch.autograd.Function):
    """Log-likelihoods in one pass, their gradient in another; nothing of the law is kept between the two."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, shares: Tensor, energies: Tensor, n_logistic: int) -> Tensor:  # noqa: ANN401
        """See :func:`split_log_likelihood`."""
        ctx.save_for_backward(raw, shares, energies)
        ctx.n_logistic = n_logistic
        told = split_log_likelihoods(
            raw.numpy(), energies.numpy(), n_logistic, *_tables(shares), BIN_WIDTH
        )  # fmt: skip
        return torch.from_numpy(told).to(raw.dtype)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
        """Gradients by the outputs of the network and by the shares of the spectra."""
        raw, shares, energies = ctx.saved_tensors
        by_raw, by_shares = split_gradients(
            raw.numpy(), energies.numpy(), weights.numpy(), ctx.n_logistic, *_tables(shares), BIN_WIDTH
        )
        return torch.from_numpy(by_raw).to(raw.dtype), torch.from_numpy(by_shares).to(shares.dtype), None, None


def split_log_likelihood(raw: Tensor, shares: Tensor, energies: Tensor, n_logistic: int) -> Tensor:
    """Log-likelihood (n,) of splits; the law of :class:`~calo4pqvae.models.qvae.cascade.law.SplitLaw`, on the CPU.

    Args:
        raw: Output of the network, (n, outputs).
        shares: Of the bins of the spectra, (spectra, bins).
        energies: Of block, left and right child in thresholds, (3, n).
        n_logistic: Logistic components.
    """
    told: Tensor = _SplitLogLikelihood.apply(raw.contiguous(), shares, energies, n_logistic)  # type: ignore[no-untyped-call]
    return told


def _tables(shares: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    exact = shares.detach().double().numpy()
    return exact, np.concatenate([np.zeros((len(exact), 1)), exact.cumsum(1)], axis=1)
