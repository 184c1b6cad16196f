r"""Learning of the cascade: maximum likelihood of true showers given their layers, in random frames.

A step takes some showers, turns and mirrors each at random, and follows the gradient of the mean log-likelihood with
Adam; the rate rises for fifty steps and falls like half a cosine to one fiftieth. What is kept is the average of the
weights over the last steps, :math:`\bar w \leftarrow d\, \bar w + (1-d)\, w`. Small batches pay: 2,000 splits a shower
are plenty of statistics. A gradient that is not finite stops the training; the last checkpoint is kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calo4pqvae.config import CascadeConfig
from calo4pqvae.errors import DivergenceError
from calo4pqvae.models.qvae.cascade.cascade import Cascade
from calo4pqvae.seeds import stream
from calo4pqvae.showers.transforms import apply_threshold
from calo4pqvae.workshop.bench import Bench
from calo4pqvae.workshop.checkpoints import load_module, load_optimizer, optimizer_tensors, prefixed, with_prefix
from calo4pqvae.workshop.processes import mean_over_processes

__all__ = ["STAGE", "train_cascade"]

STAGE = "voxels"
_WARM_UP = 50  # steps
_LEAST_RATE = 0.02
_LOOKS = 20  # validations in a training
_N_WATCHED = 200  # validation showers of a look
_N_START = 2000  # showers that the spectra start from


@dataclass
class _Progress:
    """Where the loop stands: steps done, sum of losses since the last look, average of the weights."""

    step: int
    sum: float
    average: dict[str, Tensor]


def train_cascade(bench: Bench, cascade: Cascade) -> None:
    """Learns the cascade on the training showers; what it holds at the end is the average of its weights.

    Raises:
        DivergenceError: If a gradient is not finite.
    """
    config = bench.config.cascade
    optimizer = torch.optim.Adam(cascade.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    progress = _restored(bench, cascade, optimizer)
    every = max(1, config.steps // _LOOKS)
    while progress.step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate_factor(progress.step, config.steps)
        loss = _step(bench, cascade, optimizer, progress.step)
        progress.step += 1
        progress.sum += loss
        _follow(progress, cascade, config)
        bench.report(STAGE, progress.step, config.steps, {"nats": loss})
        if progress.step % every == 0 or progress.step == config.steps:
            _look(bench, cascade, progress, every)
        if progress.step % config.checkpoint_every == 0 and progress.step < config.steps:
            bench.save(STAGE, _tensors(cascade, optimizer, progress))
    cascade.load_state_dict(progress.average)


def _restored(bench: Bench, cascade: Cascade, optimizer: torch.optim.Optimizer) -> _Progress:
    saved = bench.take(STAGE)
    if saved:
        load_module(cascade, with_prefix(saved, "cascade."))
        load_optimizer(optimizer, with_prefix(saved, "optimizer."))
        return _Progress(int(saved["step"]), float(saved["sum"]), with_prefix(saved, "average."))
    showers, _ = bench.data.store.batch(bench.data.train[:_N_START])
    cascade.start_spectra(apply_threshold(showers, bench.data.geometry.threshold_mev))
    return _Progress(0, 0.0, {name: value.clone() for name, value in cascade.state_dict().items()})


def _tensors(cascade: Cascade, optimizer: torch.optim.Optimizer, progress: _Progress) -> dict[str, Tensor]:
    return {
        "step": torch.tensor(progress.step),
        "sum": torch.tensor(progress.sum, dtype=torch.float64),
        **prefixed("cascade.", cascade.state_dict()),
        **prefixed("average.", progress.average),
        **prefixed("optimizer.", optimizer_tensors(optimizer)),
    }


def _step(bench: Bench, cascade: Cascade, optimizer: torch.optim.Optimizer, step: int) -> float:
    """One step; returns the loss in nats, the mean over all processes."""
    config, fabric = bench.config.cascade, bench.fabric
    drawing = stream(bench.seed, "voxels", step)
    rows = torch.randint(len(bench.data.train), (config.batch_size,), generator=drawing).numpy()
    showers, energies = bench.data.store.batch(bench.data.train[rows])
    turned = cascade.turned(apply_threshold(showers, bench.data.geometry.threshold_mev), drawing)
    part = np.array_split(np.arange(config.batch_size), fabric.world_size)[fabric.global_rank]
    nats = -cascade.log_likelihood(turned[part], energies[part]).sum() / config.batch_size
    optimizer.zero_grad()
    nats.backward()  # type: ignore[no-untyped-call]
    for values in cascade.parameters():
        if values.grad is not None:
            values.grad = mean_over_processes(fabric, values.grad) * fabric.world_size
    norm = torch.nn.utils.clip_grad_norm_(cascade.parameters(), config.gradient_clip)
    if not bool(torch.isfinite(norm)):
        raise DivergenceError(
            f"the gradient of the cascade is no longer finite at step {step}: lower cascade.learning_rate; "
            "the last checkpoint is kept"
        )
    optimizer.step()
    return float(mean_over_processes(fabric, nats.detach())) * fabric.world_size


@torch.no_grad()
def _follow(progress: _Progress, cascade: Cascade, config: CascadeConfig) -> None:
    """Moves the average; at first it forgets faster, so that the start is not in it."""
    memory = min(config.averaging, progress.step / (progress.step + 10.0))
    for name, value in cascade.state_dict().items():
        progress.average[name].lerp_(value, 1 - memory)


@torch.no_grad()
def _look(bench: Bench, cascade: Cascade, progress: _Progress, every: int) -> None:
    """Nats of validation showers with the average weights, beside those of the steps since the last look."""
    now = {name: value.clone() for name, value in cascade.state_dict().items()}
    cascade.load_state_dict(progress.average)
    told = []
    for showers, energies in bench.data.chunks(bench.data.validation[:_N_WATCHED], 20):
        true = apply_threshold(showers, bench.data.geometry.threshold_mev)
        told.append(-cascade.log_likelihood(true, energies))
    cascade.load_state_dict(now)
    nats = torch.cat(told)
    row: Mapping[str, float | str] = {
        "stage": STAGE,
        "update": progress.step,
        "train": progress.sum / every,
        "validation": float(nats.mean()),
        "validation_error": float(nats.std() / len(nats) ** 0.5),
    }
    bench.log(row)
    progress.sum = 0.0


def _rate_factor(step: int, total: int) -> float:
    fall = 0.5 * (1 + math.cos(math.pi * step / total))
    return min(1.0, (step + 1) / _WARM_UP) * (_LEAST_RATE + (1 - _LEAST_RATE) * fall)
