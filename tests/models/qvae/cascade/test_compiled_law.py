"""The compiled likelihood and its gradient against the law in PyTorch and its automatic derivative."""

import pytest
import torch
from torch import Tensor

from calo4pqvae.models.qvae.cascade.compiled_law import split_log_likelihood
from calo4pqvae.models.qvae.cascade.law import N_BINS, Spectra, SplitLaw, n_outputs

K, S, N = 3, 2, 600


def splits(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, logits of spectra, and energies of blocks with one or two children, from barely two to thousands."""
    generator = torch.Generator().manual_seed(seed)
    raw = 1.5 * torch.randn(N, n_outputs(K, S), generator=generator, dtype=torch.float64)
    logits = 2 * torch.randn(S, N_BINS, generator=generator, dtype=torch.float64)
    energy = 1.05 + (8 * torch.rand(N, generator=generator, dtype=torch.float64)).exp()
    share = torch.rand(N, generator=generator, dtype=torch.float64)
    both = 1 + share * (energy - 2)
    kind = torch.arange(N) % 3
    left = torch.where((kind == 0) & (energy > 2.01), both, torch.where(kind == 1, energy, torch.zeros_like(energy)))
    return raw, logits, torch.stack([energy, left, energy - left])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_values_and_gradients_are_those_of_the_law(seed: int) -> None:
    raw, logits, energies = splits(seed)
    weights = torch.linspace(0.5, 2, N, dtype=torch.float64)
    found, expected = [], []
    for kind, told in ((found, True), (expected, False)):
        values, spectra = raw.clone().requires_grad_(), logits.clone().requires_grad_()
        if told:
            result = split_log_likelihood(values, spectra.softmax(1), energies, K)
        else:
            result = SplitLaw(values, Spectra.of(spectra), K).log_likelihood(*energies)
        (weights * result).sum().backward()
        kind += [result.detach(), values.grad, spectra.grad]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)


def test_a_gradient_without_the_masses_would_be_seen() -> None:
    """Power: leaving the normalisation out of the derivative changes most entries by more than the tolerance."""
    raw, logits, energies = splits(1)
    values = raw.clone().requires_grad_()
    law = SplitLaw(values, Spectra.of(logits), K)
    both = (energies[1] > 0) & (energies[2] > 0)
    exact = torch.autograd.grad(law.log_likelihood(*energies).sum(), values)[0][both, 3:]
    masses = torch.logsumexp(law._log_weights() + law._log_masses((energies[0] - 1).clamp(min=1.001).log()), 1)
    cut = torch.autograd.grad(masses[both].sum(), values)[0][both, 3:]
    assert (cut.abs() > 1e-3).float().mean() > 0.5
    assert exact.abs().max() > 0.1
