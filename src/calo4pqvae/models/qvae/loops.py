r"""The loops: networks, export of posterior bits, prior.

A step of the networks is: batch, noise, terms of the bound, backward, optimiser; in joint training then one contrastive
step of the machine on the bits just drawn. An epoch ends with validation on showers outside the training split: terms
of the bound, quality of decoded showers, energies of encoded and of sampled bits; weights are accepted by that quality.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.config import Config, TrainingConfig
from calo4pqvae.errors import ConfigError, DivergenceError
from calo4pqvae.models.qvae.acceptance import QualitySums, is_accepted
from calo4pqvae.models.qvae.cascade.cascade import Cascade
from calo4pqvae.models.qvae.cascade.training import train_cascade
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.relaxation import TauSchedule
from calo4pqvae.models.qvae.vae import LossTerms, ShowerAutoencoder
from calo4pqvae.prior.learning.diagnostics import DivergenceGuard, WatchReport, watch
from calo4pqvae.prior.learning.learner import LearningSettings, PriorLearner
from calo4pqvae.prior.learning.pseudo_likelihood import PseudoLikelihoodReport, maximise_pseudo_likelihood
from calo4pqvae.seeds import stream
from calo4pqvae.workshop.bench import Bench
from calo4pqvae.workshop.checkpoints import load_module, load_optimizer, optimizer_tensors, prefixed, with_prefix
from calo4pqvae.workshop.processes import gather, mean_over_processes

__all__ = [
    "Learned",
    "export_posterior",
    "rate_factor",
    "save_prior",
    "start_machine",
    "train_networks",
    "train_prior",
    "train_voxels",
]

_WATCH_EVERY = 50  # updates of the prior between two looks at its moments
_TERMS = LossTerms._fields
_RECONSTRUCTION = slice(0, 5)
_INFORMATION = _TERMS.index("information")
_WARM_UP = 0.1  # share of the training in which the learning rate grows
_EXPORT_CHUNK = 500
_LIKELIHOOD_STATES = 10_000


@dataclass
class Learned:
    """What the loops learn."""

    autoencoder: ShowerAutoencoder
    prior: LatentPrior


def train_networks(bench: Bench, learned: Learned, *, joint: bool) -> None:
    """Trains encoder and decoder, and with ``joint`` the machine beside them.

    Where all parts have had stages of their own there is nothing left to train, and one look is taken.

    Raises:
        ConfigError: If there is nothing to train beside the machine.
        DivergenceError: If the loss is no longer finite or the machine's energies run away.
    """
    config, data, fabric = bench.config.training, bench.data, bench.fabric
    learner = _joint_learner(bench, learned) if joint else None
    parameters = _trained_parameters(learned)
    if not parameters:
        if joint:
            raise ConfigError("nothing of the networks is left to be trained jointly: use training.mode = 'staged'")
        learned.autoencoder.to(fabric.device)
        _end_epoch(bench, learned, _NetworkProgress(0, torch.zeros(len(_TERMS), dtype=torch.float64), None), None)
        bench.save("export", prefixed("prior.", learned.prior.state_dict()))
        return
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    module, wrapped = fabric.setup(learned.autoencoder, optimizer)
    module.mark_forward_method("loss_terms")
    progress = _NetworkProgress.restored(bench.take("networks"), learned, optimizer, learner)
    total = config.epochs * data.steps_per_epoch
    tau = TauSchedule(bench.config.latent.tau_start, bench.config.latent.tau_end)
    learned.autoencoder.train()
    while progress.step < total:
        done = progress.step / total
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * rate_factor(done)
        terms = _network_step(
            bench, learned, module, wrapped, learner, progress.step, tau(done), _kl_weight(config, done)
        )
        progress.sums += terms
        progress.step += 1
        numbers = {"loss": float(terms[_RECONSTRUCTION].sum()), "information": float(terms[_INFORMATION])}
        bench.report("networks", progress.step, total, numbers)
        if progress.step % data.steps_per_epoch == 0:
            _end_epoch(bench, learned, progress, learner)
        if progress.step % config.checkpoint_every == 0 and progress.step < total:
            bench.save("networks", progress.tensors(learned, optimizer, learner))
    if learner is not None:
        save_prior(bench, learned, torch.full((learned.prior.n_bits,), 0.5))
    bench.save("export", prefixed("prior.", learned.prior.state_dict()))
    fabric.barrier()


def train_voxels(bench: Bench, learned: Learned) -> None:
    """Learns a voxel law that has a stage of its own; the networks' stage then leaves it as it is."""
    cascade = learned.autoencoder.voxel_head
    if not isinstance(cascade, Cascade):
        raise TypeError(f"{type(cascade).__name__} is learned with the networks, not apart")
    train_cascade(bench, cascade)
    cascade.requires_grad_(False)


def export_posterior(bench: Bench, learned: Learned) -> None:
    """Writes posterior bits of all showers, drawn with the accepted, frozen networks in evaluation mode."""
    config, data = bench.config.training, bench.data
    saved = bench.take("export")
    if saved:
        load_module(learned.prior, with_prefix(saved, "prior."))
    load_module(learned.autoencoder, bench.run.load_tensors("autoencoder")[0])
    draws = [_encode_all(bench, learned, data.train, ("export", draw)) for draw in range(config.posterior_draws)]
    validation, validation_energies, _ = _encode_all(bench, learned, data.validation, ("export", "validation"))
    tensors = {
        "bits": torch.cat([bits for bits, _, _ in draws]),
        "energies": torch.cat([energies for _, energies, _ in draws]),
        "validation_bits": validation,
        "validation_energies": validation_energies,
    }
    information = torch.cat([nats for _, _, nats in draws])
    error = float(information.std() / len(information) ** 0.5)
    bench.log({"stage": "export", "information": float(information.mean()), "information_error": error})
    if bench.fabric.is_global_zero:
        bench.run.save_tensors("posterior", tensors)
    if bench.config.training.mode == "joint":
        save_prior(bench, learned, tensors["bits"].float().mean(0))
    bench.fabric.barrier()


def train_prior(bench: Bench, learned: Learned) -> None:
    """Trains the machine on exported bits; the networks are not touched.

    Raises:
        DivergenceError: If the machine's energies run away; the last checkpoint is kept.
    """
    config = bench.config.prior
    posterior, _ = bench.run.load_tensors("posterior")
    bits, energies = posterior["bits"].float(), posterior["energies"]
    learner = _prior_learner(bench, learned, bits.mean(0))
    saved = bench.take("prior")
    if saved:
        load_module(learned.prior, with_prefix(saved, "prior."))
        learner.load_state_dict(with_prefix(saved, "learner."))
    else:
        _begin_machine(bench, learned, bits, energies)
        _save_learning(bench, learned, learner)
    guard = DivergenceGuard(limit=config.max_gap)
    while learner.n_done < config.updates:
        rows = torch.randint(
            len(bits), (min(config.batch_size, len(bits)),), generator=stream(bench.seed, "prior", learner.n_done)
        )
        batch, condition = _prior_batch(bench, learned, bits[rows], energies[rows])
        report = learner.step(batch, condition)
        numbers = {"energy_data": report.energy_data, "energy_model": report.energy_model, "sweeps": report.n_sweeps}
        bench.report("prior", learner.n_done, config.updates, numbers)
        if report.mixing is not None:
            bench.log({"stage": "mixing", "update": report.step, **_finite(asdict(report.mixing))})
        if learner.n_done % _WATCH_EVERY == 0 or learner.n_done == config.updates:
            seen = _watch_prior(bench, learned, learner, posterior)
            kernel = str(learned.prior.sampler.choice)
            bench.log({"stage": "prior", "update": learner.n_done, "kernel": kernel, **_finite(asdict(seen))})
            guard.check(seen.energy_data, seen.energy_model, seen.energy_spread)
        if learner.n_done % config.checkpoint_every == 0 and learner.n_done < config.updates:
            _save_learning(bench, learned, learner)
    save_prior(bench, learned, bits.mean(0))


def _begin_machine(bench: Bench, learned: Learned, bits: Tensor, energies: Tensor) -> None:
    found = start_machine(bench.config, learned.prior, bits, energies)
    if found is not None:
        bench.log({"stage": "pseudo-likelihood", **_finite(asdict(found))})


def start_machine(config: Config, prior: LatentPrior, bits: Tensor, energies: Tensor) -> PseudoLikelihoodReport | None:
    """Moves a fresh machine to the maximum of the pseudo-likelihood of the first states, if that is wanted.

    Args:
        config: Settings.
        prior: The machine; changed.
        bits: Latent bits (N, n_bits).
        energies: Incident energies (N, 1) in MeV.

    Returns:
        What was found, None if the settings ask for another start.
    """
    joint = config.training.mode == "staged" and config.training.joint_networks
    if joint or config.prior.start == "independent":
        return None
    device = prior.machine.device
    some, at = bits[:_LIKELIHOOD_STATES].to(device), energies[:_LIKELIHOOD_STATES].to(device)
    held = torch.from_numpy(prior.clamped)
    return maximise_pseudo_likelihood(prior.machine, prior.states(some, at), prior.condition(at), held)


def save_prior(bench: Bench, learned: Learned, bit_means: Tensor) -> None:
    """Writes graph, parameters and the bits' means, from the first process."""
    if bench.fabric.is_global_zero:
        graph = {f"graph.{name}": torch.from_numpy(array) for name, array in learned.prior.topology.to_arrays().items()}
        tensors = prefixed("machine.", learned.prior.machine.state_dict()) | graph | {"bit_means": bit_means}
        bench.run.save_tensors("prior", tensors, graph=learned.prior.topology.name)
    bench.fabric.barrier()


def _trained_parameters(learned: Learned) -> list[torch.nn.Parameter]:
    """Weights that the networks' stage moves; those of the layers stay if they have had a stage of their own."""
    return [parameter for parameter in learned.autoencoder.parameters() if parameter.requires_grad]


@dataclass
class _NetworkProgress:
    """Where the loop of the networks stands."""

    step: int
    sums: Tensor
    best: float | None

    @classmethod
    def restored(
        cls,
        saved: Mapping[str, Tensor],
        learned: Learned,
        optimizer: torch.optim.Optimizer,
        learner: PriorLearner | None,
    ) -> "_NetworkProgress":
        """From a checkpoint, which is loaded into networks, optimiser and machine; fresh if there is none."""
        if not saved:
            return cls(0, torch.zeros(len(_TERMS), dtype=torch.float64), None)
        load_module(learned.autoencoder, with_prefix(saved, "autoencoder."))
        load_optimizer(optimizer, with_prefix(saved, "optimizer."))
        if learner is not None:
            load_module(learned.prior, with_prefix(saved, "prior."))
            learner.load_state_dict(with_prefix(saved, "learner."))
        best = float(saved["best"])
        return cls(int(saved["step"]), saved["sums"].clone(), None if best < 0 else best)

    def tensors(
        self, learned: Learned, optimizer: torch.optim.Optimizer, learner: PriorLearner | None
    ) -> dict[str, Tensor]:
        """All that the rest of the loop depends on."""
        tensors = {
            "step": torch.tensor(self.step),
            "best": torch.tensor(-1.0 if self.best is None else self.best, dtype=torch.float64),
            "sums": self.sums,
        }
        tensors |= prefixed("autoencoder.", learned.autoencoder.state_dict())
        tensors |= prefixed("optimizer.", optimizer_tensors(optimizer))
        if learner is not None:
            tensors |= prefixed("prior.", learned.prior.state_dict()) | prefixed("learner.", learner.state_dict())
        return tensors


def _network_step(
    bench: Bench,
    learned: Learned,
    module: Any,  # noqa: ANN401
    optimizer: Any,  # noqa: ANN401
    learner: PriorLearner | None,
    step: int,
    tau: float,
    kl_weight: float,
) -> Tensor:
    """One step; returns the terms of the bound, averaged over processes."""
    config, fabric = bench.config.training, bench.fabric
    showers, energies, uniform = _share_of_batch(bench, learned, step)
    terms, posterior = module.loss_terms(
        showers, energies, uniform, tau, None if learner is None else learned.prior.energy
    )
    shared = torch.stack([mean_over_processes(fabric, term.detach()) for term in terms]).double().cpu()
    loss = terms.total(kl_weight, config.free_bits, shared[_INFORMATION])
    if not bool(torch.isfinite(shared).all()):
        raise DivergenceError(
            f"the loss is no longer finite at step {step}: lower training.learning_rate; the last checkpoint is kept"
        )
    optimizer.zero_grad()
    fabric.backward(loss)
    fabric.clip_gradients(module, optimizer, max_norm=config.gradient_clip, error_if_nonfinite=False)
    optimizer.step()
    if learner is not None:
        bits = gather(fabric, (posterior.bits.detach() > 0.5).to(torch.float32))
        everywhere = gather(fabric, energies)
        learner.step(learned.prior.states(bits, everywhere), learned.prior.condition(everywhere))
    return shared


def _share_of_batch(bench: Bench, learned: Learned, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """This process's part of a batch and of its noise, which is drawn for the whole batch."""
    fabric = bench.fabric
    rows = bench.data.rows_of_step(step)
    uniform = torch.rand(len(rows), learned.autoencoder.n_bits, generator=stream(bench.seed, "noise", step))
    size = len(rows) // fabric.world_size
    part = slice(fabric.global_rank * size, (fabric.global_rank + 1) * size)
    showers, energies = bench.data.store.batch(rows[part])
    return showers.to(fabric.device), energies.to(fabric.device), uniform[part].to(fabric.device)


@torch.no_grad()
def _end_epoch(bench: Bench, learned: Learned, progress: _NetworkProgress, learner: PriorLearner | None) -> None:
    """Validates, decides on acceptance, logs."""
    learned.autoencoder.eval()
    epoch = progress.step // bench.data.steps_per_epoch
    device = bench.fabric.device
    sums, n_showers = torch.zeros_like(progress.sums), 0
    compared = QualitySums(bench.data.geometry)
    for chunk, (showers, energies) in enumerate(bench.data.chunks(bench.data.validation, _EXPORT_CHUNK)):
        noise = stream(bench.seed, "validation", epoch, chunk)
        uniform = torch.rand(len(showers), learned.autoencoder.n_bits, generator=noise).to(device)
        terms, posterior = learned.autoencoder.loss_terms(
            showers.to(device), energies.to(device), uniform, None, None if learner is None else learned.prior.energy
        )
        sums += len(showers) * torch.stack(list(terms)).double().cpu()
        n_showers += len(showers)
        drawing = stream(bench.seed, "validation", epoch, chunk, "decode", device=device)
        decoded = learned.autoencoder.decode(posterior.bits, energies.to(device), drawing)
        compared.add(showers, decoded.cpu(), energies)
    if not bool(torch.isfinite(sums).all()):
        raise DivergenceError(
            f"the loss of the validation showers is no longer finite in epoch {epoch}: lower training.learning_rate; "
            "the last checkpoint is kept"
        )
    quality = compared.quality()
    if not math.isfinite(quality.score):
        raise DivergenceError(f"decoded showers are no longer finite in epoch {epoch}: lower training.learning_rate")
    accepted = is_accepted(quality, progress.best)
    if accepted:
        progress.best = quality.score if progress.best is None else min(progress.best, quality.score)
        if bench.fabric.is_global_zero:
            bench.run.save_tensors("autoencoder", learned.autoencoder.state_dict())
    means = (progress.sums / bench.data.steps_per_epoch).tolist()
    train_terms = dict(zip(_TERMS, means, strict=True)) if progress.step else {}
    validation = dict(zip(_TERMS, (sums / n_showers).tolist(), strict=True))
    row = {"stage": "networks", "epoch": epoch, "train": train_terms, "validation": validation}
    bench.log(row | {"quality": quality.to_dict(), "accepted": accepted})
    progress.sums.zero_()
    learned.autoencoder.train()


@torch.no_grad()
def _encode_all(
    bench: Bench,
    learned: Learned,
    rows: NDArray[np.int64],
    name: tuple[str | int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Bits (uint8), incident energies and information in nats of rows of the store, on the CPU."""
    learned.autoencoder.eval()
    device = bench.fabric.device
    bits, incident, information = [], [], []
    for chunk, (showers, energies) in enumerate(bench.data.chunks(rows, _EXPORT_CHUNK)):
        noise = stream(bench.seed, *name, chunk)
        uniform = torch.rand(len(showers), learned.autoencoder.n_bits, generator=noise).to(device)
        posterior = learned.autoencoder.encode(showers.to(device), energies.to(device), uniform)
        bits.append(posterior.bits.to("cpu", torch.uint8))
        information.append(posterior.information().cpu())
        incident.append(energies)
    return torch.cat(bits), torch.cat(incident), torch.cat(information)


def _prior_learner(bench: Bench, learned: Learned, bit_means: Tensor) -> PriorLearner:
    config = bench.config.prior
    started = bench.config.training.mode == "staged" and bench.config.training.joint_networks
    if not started:
        held = torch.full((learned.prior.machine.n_nodes - learned.prior.n_bits,), 0.5)
        learned.prior.machine.initialise(
            torch.cat([held, bit_means]), config.coupling_std, stream(bench.seed, "couplings"), smoothing=0.01
        )
    elif bench.run.has("prior"):
        load_module(learned.prior.machine, with_prefix(bench.run.load_tensors("prior")[0], "machine."))
    settings = LearningSettings(
        learning_rate=config.learning_rate,
        learning_rate_final=config.learning_rate_final,
        n_sweeps=config.n_sweeps,
        n_chains=config.n_chains,
        method=config.method,
        gradient=config.gradient,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        measure_every=config.measure_every,
        measure_sweeps=config.measure_sweeps,
        sweeps_growth=config.sweeps_growth,
        max_sweeps=max(config.max_sweeps, config.n_sweeps),
    )
    generator = stream(bench.seed, "chains", device=bench.fabric.device)
    return PriorLearner(
        learned.prior.machine,
        settings,
        generator,
        learned.prior.clamped,
        n_steps=config.updates,
        sampler=learned.prior.sampler,
    )


def _joint_learner(bench: Bench, learned: Learned) -> PriorLearner:
    """Machine from nothing; ``loss`` means the networks' own optimiser and the plain or the mean-energy gradient."""
    config = bench.config.prior
    form = {"direct": config.gradient, "loss": "plain", "loss-covariance": "mean-energy"}[config.joint_update]
    in_loss = config.joint_update != "direct"
    halves = torch.full((learned.prior.machine.n_nodes,), 0.5)
    learned.prior.machine.initialise(halves, config.coupling_std, stream(bench.seed, "couplings"))
    settings = LearningSettings(
        learning_rate=bench.config.training.learning_rate if in_loss else config.joint_learning_rate,
        n_sweeps=config.joint_sweeps,
        n_chains=config.joint_chains,
        method=config.method,
        gradient=form,
        optimizer="adam" if in_loss else "sgd",
        weight_decay=config.weight_decay,
    )
    generator = stream(bench.seed, "joint chains", device=bench.fabric.device)
    return PriorLearner(
        learned.prior.machine, settings, generator, learned.prior.clamped, sampler=learned.prior.sampler
    )


def _save_learning(bench: Bench, learned: Learned, learner: PriorLearner) -> None:
    bench.save("prior", prefixed("prior.", learned.prior.state_dict()) | prefixed("learner.", learner.state_dict()))


def _prior_batch(bench: Bench, learned: Learned, bits: Tensor, energies: Tensor) -> tuple[Tensor, Tensor | None]:
    device = bench.fabric.device
    bits, energies = bits.to(device), energies.to(device)
    return learned.prior.states(bits, energies), learned.prior.condition(energies)


@torch.no_grad()
def _watch_prior(bench: Bench, learned: Learned, learner: PriorLearner, posterior: Mapping[str, Tensor]) -> WatchReport:
    """Compares training bits with the chains, which stand at training energies of their own."""
    n_seen = min(2000, len(posterior["bits"]))
    bits, energies = posterior["bits"][:n_seen].float(), posterior["energies"][:n_seen]
    states, condition = _prior_batch(bench, learned, bits, energies)
    chains = learner.chains
    if chains is None:  # contrastive divergence keeps no chains: short chains from the data are what it samples
        drawing = stream(bench.seed, "watch", learner.n_done, device=bench.fabric.device)
        bits = learned.prior.sample(energies.to(bench.fabric.device), bench.config.prior.n_sweeps, drawing)
        drawn = learned.prior.states(bits, energies.to(bits.device))
        return watch(learned.prior.machine, states, drawn, condition, held=learned.prior.clamped)
    samples = chains.state.states
    return watch(learned.prior.machine, states, samples, condition, chains.condition, held=learned.prior.clamped)


def rate_factor(done: float) -> float:
    """Linear warm-up, then half a cosine down to one hundredth."""
    if done < _WARM_UP:
        return 0.04 + 0.96 * done / _WARM_UP
    fall = (done - _WARM_UP) / (1 - _WARM_UP)
    return 0.01 + 0.99 * 0.5 * (1 + float(torch.cos(torch.tensor(fall * torch.pi))))


def _kl_weight(config: TrainingConfig, done: float) -> float:
    return config.kl_weight * (min(1.0, done / config.kl_warmup) if config.kl_warmup else 1.0)


def _finite(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: numbers that do not exist (a slope without couplers) become null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }
