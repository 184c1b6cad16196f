"""The stage of the layers: their law is learned before the networks of voxels, which take long and do not change it.

With an encoder of factors the bits of a shower depend on its layers alone and are fixed by the fit. The law of
response and layers given the bits can then be learned by itself, from 50 numbers a shower instead of thousands:
seconds for more steps than the voxels could pay for. Widths of fluctuations come out of it, and they take more steps
than means do.

Every process does the same work with the same random streams, so that no gradient has to be shared.
"""

import torch

from calo4pqvae.errors import DivergenceError
from calo4pqvae.models.qvae.factor_encoder import FactorEncoder
from calo4pqvae.models.qvae.loops import Learned, rate_factor
from calo4pqvae.models.qvae.observables import ShowerView
from calo4pqvae.seeds import stream
from calo4pqvae.workshop.bench import Bench

__all__ = ["has_layer_stage", "train_layers"]

_REPORT_EVERY = 50


def has_layer_stage(learned: Learned, n_steps: int) -> bool:
    """Whether the layers are learned by themselves: with an encoder of factors, if steps are wanted."""
    return n_steps > 0 and isinstance(learned.autoencoder.encoder, FactorEncoder)


def train_layers(bench: Bench, learned: Learned) -> None:
    """Learns the law of response and layers, and leaves its weights as they are for the stages after it.

    Raises:
        DivergenceError: If the loss is no longer finite.
    """
    bench.take("layers")  # too short a stage for checkpoints of its own
    config, autoencoder, device = (
        bench.config.training,
        learned.autoencoder.to(bench.fabric.device),
        bench.fabric.device,
    )
    view = _layers_of_training(bench, learned)
    head = autoencoder.layer_head
    head.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=config.layer_learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    for step in range(config.layer_steps):
        noise = stream(bench.seed, "layers", step)
        rows = torch.randint(len(view.position), (config.batch_size,), generator=noise)
        uniform = torch.rand(len(rows), autoencoder.n_bits, generator=noise).to(device)
        batch = ShowerView(*(column[rows].to(device) for column in view))
        loss = autoencoder.layer_loss(batch, uniform)
        if not bool(torch.isfinite(loss)):
            raise DivergenceError(
                f"the loss of the layers is no longer finite at step {step}: lower training.layer_learning_rate"
            )
        for group in optimizer.param_groups:
            group["lr"] = config.layer_learning_rate * rate_factor(step / config.layer_steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % _REPORT_EVERY == 0 or step + 1 == config.layer_steps:
            bench.report("layers", step + 1, config.layer_steps, {"loss": float(loss.detach())})
    head.requires_grad_(False)
    bench.log({"stage": "layers", "steps": config.layer_steps, "loss": float(loss.detach())})


@torch.no_grad()
def _layers_of_training(bench: Bench, learned: Learned) -> ShowerView:
    """Views of all training showers without their voxels, on the CPU."""
    device = bench.fabric.device
    parts = []
    for showers, energies in bench.data.chunks(bench.data.train):
        view = learned.autoencoder.observables(showers.to(device), energies.to(device))
        parts.append(view._replace(voxels=view.voxels[:, :0], hits=view.hits[:, :0]))
    return ShowerView(*(torch.cat(columns).cpu() for columns in zip(*parts, strict=True)))
