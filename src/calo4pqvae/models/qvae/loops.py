r"""The loops: networks, export of posterior bits, prior.

A step of the networks is: batch, noise, terms of the bound, backward, optimiser; in joint training then one contrastive
step of the machine on the bits just drawn. An epoch ends with validation on showers outside the training split: terms
of the bound, quality of decoded showers, energies of encoded and of sampled bits; weights are accepted by that quality.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor

from calo4pqvae.config import Config, TrainingConfig
from calo4pqvae.errors import CheckpointError, DivergenceError
from calo4pqvae.models.qvae.acceptance import compare_showers, is_accepted
from calo4pqvae.models.qvae.encoder import energy_correlation
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.relaxation import TauSchedule
from calo4pqvae.models.qvae.vae import LossTerms, ShowerAutoencoder
from calo4pqvae.prior.learning.diagnostics import DivergenceGuard, WatchReport, watch
from calo4pqvae.prior.learning.learner import LearningSettings, PriorLearner
from calo4pqvae.seeds import stream
from calo4pqvae.workshop.checkpoints import load_module, load_optimizer, prefixed, with_prefix
from calo4pqvae.workshop.data import TrainingData
from calo4pqvae.workshop.processes import gather, mean_over_processes
from calo4pqvae.workshop.rundir import RunDirectory
from calo4pqvae.workshop.tracking import BoardWriter

__all__ = ["Reporter", "Shop", "export_posterior", "silent", "train_networks", "train_prior"]

STAGES = ("networks", "export", "prior", "finished")

_WATCH_EVERY = 50  # updates of the prior between two looks at its moments
_TERMS = LossTerms._fields
_RECONSTRUCTION = slice(0, 5)
_INFORMATION = _TERMS.index("information")
_WARM_UP = 0.1  # share of the training in which the learning rate grows
_EXPORT_CHUNK = 500


class Reporter(Protocol):
    """Told about progress; the library itself prints nothing."""

    def __call__(self, stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """Takes the stage, steps done and to do, and the latest numbers."""


def silent(stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
    """A reporter that says nothing."""


@dataclass
class Shop:
    """What all loops work with."""

    config: Config
    run: RunDirectory
    fabric: Fabric
    data: TrainingData
    autoencoder: ShowerAutoencoder
    prior: LatentPrior
    report: Reporter
    checkpoint: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    board: BoardWriter | None = None

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.training.seed

    def is_past(self, stage: str) -> bool:
        """Whether the checkpoint that was read comes from a later stage."""
        found = self.notes.get("stage")
        return found is not None and STAGES.index(found) > STAGES.index(stage)

    def take(self, stage: str) -> dict[str, Tensor]:
        """The checkpoint that was read, if it belongs to this stage; it is given once."""
        tensors = self.checkpoint if self.notes.get("stage") == stage else {}
        self.checkpoint, self.notes = {}, {}
        return tensors

    def read_checkpoint(self) -> None:
        """Reads the checkpoint of the run and cuts the metrics back to where they stood.

        Raises:
            CheckpointError: If it is damaged or no checkpoint at all.
        """
        self.checkpoint, self.notes = self.run.load_tensors("checkpoint")
        n_rows = self.notes.get("n_rows", "")
        if self.notes.get("stage") not in STAGES or not n_rows.isdigit():
            raise CheckpointError(
                f"{self.run.tensor_path('checkpoint')} is no checkpoint of a training: restore it or train again"
            )
        self.forget_metrics(int(n_rows))

    def forget_metrics(self, n_kept: int) -> None:
        """Cuts the metrics back to their first rows, from the first process."""
        if self.fabric.is_global_zero:
            self.run.keep_metrics(n_kept)

    def save(self, stage: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes the checkpoint of a stage, from the first process."""
        if self.fabric.is_global_zero:
            self.run.save_tensors("checkpoint", tensors, stage=stage, n_rows=str(len(self.run.metrics())))

    def log(self, row: Mapping[str, Any]) -> None:
        """Adds a row of metrics, from the first process."""
        if self.fabric.is_global_zero:
            self.run.append_metrics(row)
            if self.board is not None:
                self.board.add(row)


def train_networks(shop: Shop, *, joint: bool) -> None:
    """Trains encoder and decoder, and with ``joint`` the machine beside them.

    Raises:
        DivergenceError: If the loss is no longer finite or the machine's energies run away.
    """
    config, data, fabric = shop.config.training, shop.data, shop.fabric
    learner = _joint_learner(shop) if joint else None
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        shop.autoencoder.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    module, wrapped = fabric.setup(shop.autoencoder, optimizer)
    module.mark_forward_method("loss_terms")
    progress = _NetworkProgress.restored(shop.take("networks"), shop, optimizer, learner)
    total = config.epochs * data.steps_per_epoch
    tau = TauSchedule(shop.config.latent.tau_start, shop.config.latent.tau_end)
    shop.autoencoder.train()
    while progress.step < total:
        done = progress.step / total
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate_factor(done)
        terms = _network_step(shop, module, wrapped, learner, progress.step, tau(done), _kl_weight(config, done))
        progress.sums += terms
        progress.step += 1
        numbers = {"loss": float(terms[_RECONSTRUCTION].sum()), "information": float(terms[_INFORMATION])}
        shop.report("networks", progress.step, total, numbers)
        if progress.step % data.steps_per_epoch == 0:
            _end_epoch(shop, progress, learner)
        if progress.step % config.checkpoint_every == 0 and progress.step < total:
            shop.save("networks", progress.tensors(shop, optimizer, learner))
    if learner is not None:
        save_prior(shop, torch.full((shop.prior.n_bits,), 0.5))
    shop.save("export", prefixed("prior.", shop.prior.state_dict()))
    fabric.barrier()


def export_posterior(shop: Shop) -> None:
    """Writes posterior bits of all showers, drawn with the accepted, frozen networks in evaluation mode."""
    config, data = shop.config.training, shop.data
    saved = shop.take("export")
    if saved:
        load_module(shop.prior, with_prefix(saved, "prior."))
    load_module(shop.autoencoder, shop.run.load_tensors("autoencoder")[0])
    draws = [_encode_all(shop, data.train, ("export", draw)) for draw in range(config.posterior_draws)]
    validation, validation_energies, _ = _encode_all(shop, data.validation, ("export", "validation"))
    tensors = {
        "bits": torch.cat([bits for bits, _, _ in draws]),
        "energies": torch.cat([energies for _, energies, _ in draws]),
        "validation_bits": validation,
        "validation_energies": validation_energies,
    }
    information = torch.cat([nats for _, _, nats in draws])
    error = float(information.std() / len(information) ** 0.5)
    shop.log({"stage": "export", "information": float(information.mean()), "information_error": error})
    if shop.fabric.is_global_zero:
        shop.run.save_tensors("posterior", tensors)
    if shop.config.training.mode == "joint":
        save_prior(shop, tensors["bits"].float().mean(0))
    shop.fabric.barrier()


def train_prior(shop: Shop) -> None:
    """Trains the machine on exported bits; the networks are not touched.

    Raises:
        DivergenceError: If the machine's energies run away; the last checkpoint is kept.
    """
    config = shop.config.prior
    posterior, _ = shop.run.load_tensors("posterior")
    bits, energies = posterior["bits"].float(), posterior["energies"]
    learner = _prior_learner(shop, bits.mean(0))
    saved = shop.take("prior")
    if saved:
        load_module(shop.prior, with_prefix(saved, "prior."))
        learner.load_state_dict(with_prefix(saved, "learner."))
    else:
        _save_learning(shop, learner)
    guard = DivergenceGuard(limit=config.max_gap)
    while learner.n_done < config.updates:
        rows = torch.randint(
            len(bits), (min(config.batch_size, len(bits)),), generator=stream(shop.seed, "prior", learner.n_done)
        )
        batch, condition = _prior_batch(shop, bits[rows], energies[rows])
        report = learner.step(batch, condition)
        numbers = {"energy_data": report.energy_data, "energy_model": report.energy_model, "sweeps": report.n_sweeps}
        shop.report("prior", learner.n_done, config.updates, numbers)
        if report.mixing is not None:
            shop.log({"stage": "mixing", "update": report.step, **_finite(asdict(report.mixing))})
        if learner.n_done % _WATCH_EVERY == 0 or learner.n_done == config.updates:
            seen = _watch_prior(shop, learner, posterior)
            kernel = str(shop.prior.sampler.choice)
            shop.log({"stage": "prior", "update": learner.n_done, "kernel": kernel, **_finite(asdict(seen))})
            guard.check(seen.energy_data, seen.energy_model, seen.energy_spread)
        if learner.n_done % config.checkpoint_every == 0 and learner.n_done < config.updates:
            _save_learning(shop, learner)
    save_prior(shop, bits.mean(0))


def save_prior(shop: Shop, bit_means: Tensor) -> None:
    """Writes graph, parameters and the bits' means, from the first process."""
    if shop.fabric.is_global_zero:
        graph = {f"graph.{name}": torch.from_numpy(array) for name, array in shop.prior.topology.to_arrays().items()}
        tensors = prefixed("machine.", shop.prior.machine.state_dict()) | graph | {"bit_means": bit_means}
        shop.run.save_tensors("prior", tensors, graph=shop.prior.topology.name)
    shop.fabric.barrier()


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
        shop: Shop,
        optimizer: torch.optim.Optimizer,
        learner: PriorLearner | None,
    ) -> "_NetworkProgress":
        """From a checkpoint, which is loaded into networks, optimiser and machine; fresh if there is none."""
        if not saved:
            return cls(0, torch.zeros(len(_TERMS), dtype=torch.float64), None)
        load_module(shop.autoencoder, with_prefix(saved, "autoencoder."))
        load_optimizer(optimizer, with_prefix(saved, "optimizer."))
        if learner is not None:
            load_module(shop.prior, with_prefix(saved, "prior."))
            learner.load_state_dict(with_prefix(saved, "learner."))
        best = float(saved["best"])
        return cls(int(saved["step"]), saved["sums"].clone(), None if best < 0 else best)

    def tensors(self, shop: Shop, optimizer: torch.optim.Optimizer, learner: PriorLearner | None) -> dict[str, Tensor]:
        """All that the rest of the loop depends on."""
        tensors = {
            "step": torch.tensor(self.step),
            "best": torch.tensor(-1.0 if self.best is None else self.best, dtype=torch.float64),
            "sums": self.sums,
        }
        tensors |= prefixed("autoencoder.", shop.autoencoder.state_dict())
        for index, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
        if learner is not None:
            tensors |= prefixed("prior.", shop.prior.state_dict()) | prefixed("learner.", learner.state_dict())
        return tensors


def _network_step(
    shop: Shop,
    module: Any,  # noqa: ANN401
    optimizer: Any,  # noqa: ANN401
    learner: PriorLearner | None,
    step: int,
    tau: float,
    kl_weight: float,
) -> Tensor:
    """One step; returns the terms of the bound, averaged over processes."""
    config, fabric = shop.config.training, shop.fabric
    showers, energies, uniform = _share_of_batch(shop, step)
    terms, posterior = module.loss_terms(
        showers, energies, uniform, tau, None if learner is None else shop.prior.energy
    )
    shared = torch.stack([mean_over_processes(fabric, term.detach()) for term in terms]).double().cpu()
    loss = terms.total(kl_weight, config.free_bits, shared[_INFORMATION])
    if config.decorrelation:
        position = gather(fabric, shop.autoencoder.observables.position(energies))
        loss = loss + config.decorrelation * energy_correlation(gather(fabric, posterior.factors), position)
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
        learner.step(shop.prior.states(bits, everywhere), shop.prior.condition(everywhere))
    return shared


def _share_of_batch(shop: Shop, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """This process's part of a batch and of its noise, which is drawn for the whole batch."""
    fabric = shop.fabric
    rows = shop.data.rows_of_step(step)
    uniform = torch.rand(len(rows), shop.autoencoder.n_bits, generator=stream(shop.seed, "noise", step))
    size = len(rows) // fabric.world_size
    part = slice(fabric.global_rank * size, (fabric.global_rank + 1) * size)
    showers, energies = shop.data.store.batch(rows[part])
    return showers.to(fabric.device), energies.to(fabric.device), uniform[part].to(fabric.device)


@torch.no_grad()
def _end_epoch(shop: Shop, progress: _NetworkProgress, learner: PriorLearner | None) -> None:
    """Validates, decides on acceptance, logs."""
    shop.autoencoder.eval()
    epoch = progress.step // shop.data.steps_per_epoch
    device = shop.fabric.device
    sums, n_showers = torch.zeros_like(progress.sums), 0
    true, decoded, incident = [], [], []
    for chunk, (showers, energies) in enumerate(shop.data.chunks(shop.data.validation, _EXPORT_CHUNK)):
        noise = stream(shop.seed, "validation", epoch, chunk)
        uniform = torch.rand(len(showers), shop.autoencoder.n_bits, generator=noise).to(device)
        terms, posterior = shop.autoencoder.loss_terms(
            showers.to(device), energies.to(device), uniform, None, None if learner is None else shop.prior.energy
        )
        sums += len(showers) * torch.stack(list(terms)).double().cpu()
        n_showers += len(showers)
        drawing = stream(shop.seed, "validation", epoch, chunk, "decode", device=device)
        decoded.append(shop.autoencoder.decode(posterior.bits, energies.to(device), drawing).cpu())
        true.append(showers)
        incident.append(energies)
    if not bool(torch.isfinite(sums).all()):
        raise DivergenceError(
            f"the loss of the validation showers is no longer finite in epoch {epoch}: lower training.learning_rate; "
            "the last checkpoint is kept"
        )
    quality = compare_showers(torch.cat(true), torch.cat(decoded), torch.cat(incident), shop.data.geometry)
    if not math.isfinite(quality.score):
        raise DivergenceError(f"decoded showers are no longer finite in epoch {epoch}: lower training.learning_rate")
    accepted = is_accepted(quality, progress.best)
    if accepted:
        progress.best = quality.score if progress.best is None else min(progress.best, quality.score)
        if shop.fabric.is_global_zero:
            shop.run.save_tensors("autoencoder", shop.autoencoder.state_dict())
    train_terms = dict(zip(_TERMS, (progress.sums / shop.data.steps_per_epoch).tolist(), strict=True))
    validation = dict(zip(_TERMS, (sums / n_showers).tolist(), strict=True))
    row = {"stage": "networks", "epoch": epoch, "train": train_terms, "validation": validation}
    shop.log(row | {"quality": quality.to_dict(), "accepted": accepted})
    progress.sums.zero_()
    shop.autoencoder.train()


@torch.no_grad()
def _encode_all(shop: Shop, rows: Any, name: tuple[str | int, ...]) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    """Bits (uint8), incident energies and information in nats of rows of the store, on the CPU."""
    shop.autoencoder.eval()
    device = shop.fabric.device
    bits, incident, information = [], [], []
    for chunk, (showers, energies) in enumerate(shop.data.chunks(rows, _EXPORT_CHUNK)):
        noise = stream(shop.seed, *name, chunk)
        uniform = torch.rand(len(showers), shop.autoencoder.n_bits, generator=noise).to(device)
        posterior = shop.autoencoder.encode(showers.to(device), energies.to(device), uniform)
        bits.append(posterior.bits.to("cpu", torch.uint8))
        information.append(posterior.information().cpu())
        incident.append(energies)
    return torch.cat(bits), torch.cat(incident), torch.cat(information)


def _prior_learner(shop: Shop, bit_means: Tensor) -> PriorLearner:
    config = shop.config.prior
    started = shop.config.training.mode == "staged" and shop.config.training.joint_networks
    if not started:
        held = torch.full((shop.prior.machine.n_nodes - shop.prior.n_bits,), 0.5)
        shop.prior.machine.initialise(
            torch.cat([held, bit_means]), config.coupling_std, stream(shop.seed, "couplings"), smoothing=0.01
        )
    elif shop.run.has("prior"):
        load_module(shop.prior.machine, with_prefix(shop.run.load_tensors("prior")[0], "machine."))
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
    generator = stream(shop.seed, "chains", device=shop.fabric.device)
    return PriorLearner(
        shop.prior.machine,
        settings,
        generator,
        shop.prior.clamped,
        n_steps=config.updates,
        sampler=shop.prior.sampler,
    )


def _joint_learner(shop: Shop) -> PriorLearner:
    """Machine from nothing; ``loss`` means the networks' own optimiser and the plain or the mean-energy gradient."""
    config = shop.config.prior
    form = {"direct": config.gradient, "loss": "plain", "loss-covariance": "mean-energy"}[config.joint_update]
    in_loss = config.joint_update != "direct"
    halves = torch.full((shop.prior.machine.n_nodes,), 0.5)
    shop.prior.machine.initialise(halves, config.coupling_std, stream(shop.seed, "couplings"))
    settings = LearningSettings(
        learning_rate=shop.config.training.learning_rate if in_loss else config.joint_learning_rate,
        n_sweeps=config.joint_sweeps,
        n_chains=config.joint_chains,
        method=config.method,
        gradient=form,
        optimizer="adam" if in_loss else "sgd",
        weight_decay=config.weight_decay,
    )
    generator = stream(shop.seed, "joint chains", device=shop.fabric.device)
    return PriorLearner(shop.prior.machine, settings, generator, shop.prior.clamped, sampler=shop.prior.sampler)


def _save_learning(shop: Shop, learner: PriorLearner) -> None:
    shop.save("prior", prefixed("prior.", shop.prior.state_dict()) | prefixed("learner.", learner.state_dict()))


def _prior_batch(shop: Shop, bits: Tensor, energies: Tensor) -> tuple[Tensor, Tensor | None]:
    device = shop.fabric.device
    bits, energies = bits.to(device), energies.to(device)
    return shop.prior.states(bits, energies), shop.prior.condition(energies)


@torch.no_grad()
def _watch_prior(shop: Shop, learner: PriorLearner, posterior: Mapping[str, Tensor]) -> WatchReport:
    """Compares training bits with the chains, which stand at training energies of their own."""
    n_seen = min(2000, len(posterior["bits"]))
    bits, energies = posterior["bits"][:n_seen].float(), posterior["energies"][:n_seen]
    states, condition = _prior_batch(shop, bits, energies)
    chains = learner.chains
    if chains is None:  # contrastive divergence keeps no chains: short chains from the data are what it samples
        drawing = stream(shop.seed, "watch", learner.n_done, device=shop.fabric.device)
        bits = shop.prior.sample(energies.to(shop.fabric.device), shop.config.prior.n_sweeps, drawing)
        drawn = shop.prior.states(bits, energies.to(bits.device))
        return watch(shop.prior.machine, states, drawn, condition, held=shop.prior.clamped)
    samples = chains.state.states
    return watch(shop.prior.machine, states, samples, condition, chains.condition, held=shop.prior.clamped)


def _rate_factor(done: float) -> float:
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
