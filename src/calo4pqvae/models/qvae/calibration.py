r"""Calibration of mean layer energies to the training showers, once the prior is known.

The decoder is trained with posterior bits. Samples of a prior that is narrower than the posterior bits on the whole
give layers of a little less variance, and since :math:`\langle E_l \rangle` contains the variance of
:math:`\sqrt{E_l}`, a few per cent less energy in the faint layers. As a last step of training, energies are therefore
scaled layer by layer,

.. math:: E_l \to E_l\, e^{g_{l0} + g_{l1} t + g_{l2} t^2} \times \text{(a common factor that keeps } E_{tot}),

with g fitted so that showers drawn from the prior at the incident energies of the training showers have their mean
layer energies. Only training showers are used, and only means are set: widths and correlations stay what the prior
makes them. Each source of bits has a calibration of its own (the baseline of independent bits too); posterior bits
have none.
"""

import torch
from torch import Tensor

from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.vae import ShowerAutoencoder
from calo4pqvae.seeds import stream

__all__ = ["calibrate_layers"]

_BINS = 8
_ROUNDS = 2
_RIDGE = 1.0  # pulls an uncertain gain to nothing, in units of its inverse variance


@torch.no_grad()
def calibrate_layers(
    autoencoder: ShowerAutoencoder,
    prior: LatentPrior,
    true_layers: Tensor,
    incident_energies: Tensor,
    *,
    n_sweeps: int,
    seed: int,
    chunk: int = 500,
) -> Tensor:
    """Fits the gain of each layer.

    Args:
        autoencoder: The trained networks.
        prior: Where bits are drawn from.
        true_layers: Layer energies of training showers in MeV, (N, L).
        incident_energies: Their incident energies in MeV, (N, 1).
        n_sweeps: Block Gibbs sweeps of a draw.
        seed: Seed of the draws.
        chunk: Showers drawn at a time.

    Returns:
        Coefficients g, (3, L), on the CPU.
    """
    device = prior.machine.device
    energies = incident_energies.to(device)
    bits = [
        prior.sample(part, n_sweeps, stream(seed, "calibration", number, device=device))
        for number, part in enumerate(torch.split(energies, chunk))
    ]
    gain = torch.zeros(3, true_layers.shape[1])
    position = autoencoder.observables.position(incident_energies)
    for turn in range(_ROUNDS):
        drawn = [
            autoencoder.draw_layers(
                own, part, stream(seed, "calibration", turn, number, device=device), gain.to(device)
            ).cpu()
            for number, (own, part) in enumerate(zip(bits, torch.split(energies, chunk), strict=True))
        ]
        gain += _log_ratio_fit(true_layers / incident_energies, torch.cat(drawn) / incident_energies, position)
    return gain


def _log_ratio_fit(true: Tensor, drawn: Tensor, position: Tensor) -> Tensor:
    """Quadratic in t of ln(mean true / mean drawn), (3, L), by least squares over bins of t weighted by errors."""
    order = torch.argsort(position[:, 0])
    places, ratios, weights = [], [], []
    for rows in torch.tensor_split(order, _BINS):
        above, below = true[rows].double(), drawn[rows].double()
        means = above.mean(0).clamp(min=1e-12), below.mean(0).clamp(min=1e-12)
        variance = (above.var(0) / means[0] ** 2 + below.var(0) / means[1] ** 2) / len(rows)
        places.append(position[rows].mean().double())
        ratios.append((means[0] / means[1]).log().clamp(-1, 1))
        weights.append(1 / (variance + 1e-6))
    basis = torch.stack([torch.stack(places) ** power for power in range(3)], dim=1)
    weight, ratio = torch.stack(weights).T, torch.stack(ratios).T  # (L, bins)
    gram = torch.einsum("bi,lb,bj->lij", basis, weight, basis) + _RIDGE * torch.eye(3, dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(gram, torch.einsum("bi,lb,lb->li", basis, weight, ratio))
    return solution.T.float()
