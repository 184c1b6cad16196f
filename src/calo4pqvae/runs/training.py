r"""Training: what is trained in which order, and how it is resumed.

* ``autoencoder``: the bound with fair coins as prior (weight ``kl_weight``), nothing else;
* ``joint``: the machine is the prior from the start and learns beside the networks. The encoder's loss holds the energy
  of its bits; the machine is moved by the contrastive gradient from block Gibbs statistics, with plain SGD of its own
  (``direct``) or with the networks' learning rate and Adam (``loss``: the older scheme of positive and negative energy
  inside one loss, whose gradient with samples held fixed is the same contrastive one; ``loss-covariance``: that loss
  differentiated whole, the law of the samples too, which is another direction, see
  :mod:`calo4pqvae.prior.learning.gradients`);
* ``prior``: the machine alone, on posterior bits exported by an earlier run;
* ``staged``: networks (with fair coins, or jointly if ``training.joint_networks``), then export of posterior bits with
  the networks frozen and in evaluation mode, then the machine by PCD.

Every mode that ends with a prior ends with the calibration of mean layers (:mod:`calo4pqvae.models.qvae.calibration`).

The loops themselves are in :mod:`calo4pqvae.models.qvae.loops`. All randomness comes from streams named by step
(:mod:`calo4pqvae.seeds`), so that a resumed run equals an uninterrupted one bit for bit, and the noise of a batch is
drawn for the whole batch before it is shared among processes.
"""

import difflib
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from calo4pqvae import __version__
from calo4pqvae.config import Config
from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.models.qvae.calibration import calibrate_layers
from calo4pqvae.models.qvae.latent_prior import LatentPrior, build_topology, independent_baseline
from calo4pqvae.models.qvae.loops import Reporter, Shop, export_posterior, silent, train_networks, train_prior
from calo4pqvae.models.qvae.vae import ShowerAutoencoder
from calo4pqvae.showers.transforms import apply_threshold
from calo4pqvae.workshop.checkpoints import load_module, with_prefix
from calo4pqvae.workshop.data import TrainingData
from calo4pqvae.workshop.processes import make_fabric
from calo4pqvae.workshop.rundir import RunDirectory
from calo4pqvae.workshop.tracking import BoardWriter

__all__ = ["train"]

_CALIBRATION_SHOWERS = 5000


def train(
    config: Config, out: Path, *, resume: bool = False, overwrite: bool = False, report: Reporter = silent
) -> RunDirectory:
    """Trains a model into a run directory.

    Args:
        config: Settings; on resuming they must be those of the run.
        out: The run directory.
        resume: Go on from the checkpoint in ``out``.
        overwrite: Start anew where a run stands.
        report: Told about progress.

    Returns:
        The finished run.

    Raises:
        DataError: If showers cannot be used.
        ConfigError: If settings do not fit data or machine.
        CheckpointError: If there is nothing to resume, or it belongs to another configuration.
        DivergenceError: If a loss or the machine left finite values; the last checkpoint is kept.
    """
    started = time.perf_counter()
    if resume:
        _same_config(config, RunDirectory.open(out).config(), out)
    data = TrainingData(config)
    prior = LatentPrior(config, build_topology(config))
    fabric = make_fabric(config)
    if config.training.mode == "prior" and not resume:
        _start_of(config, prior)  # what it lacks is told before anything is written
    if fabric.is_global_zero and not resume:
        RunDirectory.create(out, config, replace=overwrite)
    fabric.barrier()
    shop = _open_shop(config, RunDirectory(out), fabric, data, prior, report)
    if shop.is_past("prior"):
        return shop.run
    if fabric.is_global_zero:
        shop.run.write_provenance(_provenance(shop, finished=False, seconds=None))
        shop.run.save_tensors(
            "split", {"train": torch.from_numpy(data.train), "validation": torch.from_numpy(data.validation)}
        )
    _stages(shop)
    if fabric.is_global_zero:
        shop.run.write_provenance(_provenance(shop, finished=True, seconds=time.perf_counter() - started))
        shop.run.tensor_path("checkpoint").unlink(missing_ok=True)
    fabric.barrier()
    return shop.run


def _stages(shop: Shop) -> None:
    mode = shop.config.training.mode
    if mode != "prior" and not shop.is_past("networks"):
        train_networks(shop, joint=mode == "joint" or (mode == "staged" and shop.config.training.joint_networks))
    if mode != "prior" and not shop.is_past("export"):
        export_posterior(shop)
    if mode in ("staged", "prior") and not shop.is_past("prior"):
        train_prior(shop)
    if mode != "autoencoder":
        _calibrate(shop)


def _calibrate(shop: Shop) -> None:
    """Fits the calibration of layers for both sources of bits and stores it with the prior, from the first process."""
    if shop.fabric.is_global_zero:
        stored, notes = shop.run.load_tensors("prior")
        load_module(shop.autoencoder, shop.run.load_tensors("autoencoder")[0])
        load_module(shop.prior.machine, with_prefix(stored, "machine."))
        shop.autoencoder.eval()
        baseline = independent_baseline(shop.prior, shop.config, stored["bit_means"]).to(shop.fabric.device)
        sources = {"boltzmann": (shop.prior, shop.config.generation.n_sweeps), "independent": (baseline, 1)}
        layers, energies = _layers_of(shop, shop.data.train[:_CALIBRATION_SHOWERS])
        for source, (prior, n_sweeps) in sources.items():
            gain = torch.zeros(3, layers.shape[1])
            if shop.config.prior.calibrate:
                gain = calibrate_layers(shop.autoencoder, prior, layers, energies, n_sweeps=n_sweeps, seed=shop.seed)
            stored[f"layer_gain.{source}"] = gain
        shop.run.save_tensors("prior", stored, **notes)
    shop.fabric.barrier()


def _layers_of(shop: Shop, rows: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Layer energies and incident energies in MeV of rows of the store."""
    split, threshold = shop.autoencoder.observables.split, shop.data.geometry.threshold_mev
    parts = [
        (split.layer_energies(apply_threshold(showers, threshold)), energies)
        for showers, energies in shop.data.chunks(rows)
    ]
    layers, incident = zip(*parts, strict=True)
    return torch.cat(layers), torch.cat(incident)


def _open_shop(
    config: Config, run: RunDirectory, fabric: Fabric, data: TrainingData, prior: LatentPrior, report: Reporter
) -> Shop:
    torch.manual_seed(config.training.seed)
    autoencoder = ShowerAutoencoder(config, data.geometry, prior.level_sizes)
    shop = Shop(config, run, fabric, data, autoencoder, prior, report)
    if config.training.tensorboard and fabric.is_global_zero:
        shop.board = BoardWriter(run.path / "tensorboard")
    if run.has("checkpoint"):
        shop.read_checkpoint()
    elif run.provenance().get("finished"):
        shop.notes = {"stage": "finished"}
    else:
        shop.forget_metrics(0)
        if config.training.mode == "prior":
            _take_over(shop)
        else:
            autoencoder.fit_observables(data.chunks(data.train))
    prior.to(fabric.device)
    return shop


def _take_over(shop: Shop) -> None:
    """Prior mode: networks and posterior bits come from another run."""
    other, found = _start_of(shop.config, shop.prior)
    for name, tensors in found.items():
        if shop.fabric.is_global_zero:
            shop.run.save_tensors(name, tensors)
    for row in other.metrics():
        if row["stage"] == "export":
            shop.log(row)
    shop.fabric.barrier()


def _start_of(config: Config, prior: LatentPrior) -> tuple[RunDirectory, dict[str, dict[str, torch.Tensor]]]:
    source = config.training.start_from
    if source is None:
        raise ConfigError("training.mode = 'prior' needs training.start_from, a run with exported posterior bits")
    other = RunDirectory.open(Path(source))
    found = {name: other.load_tensors(name)[0] for name in ("autoencoder", "posterior")}
    n_bits = found["posterior"]["bits"].shape[1]
    if n_bits != prior.n_bits:
        raise CheckpointError(
            f"{source} has posterior states of {n_bits} bits, the prior {prior.n_bits}: "
            "use the latent settings of that run"
        )
    return other, found


def _same_config(config: Config, stored: Config, out: Path) -> None:
    old, new = (tree.to_toml().splitlines() for tree in (stored, config))
    changed = [line for line in difflib.ndiff(old, new) if line.startswith(("+ ", "- "))]
    if changed:
        raise CheckpointError(
            f"{out} was made with another configuration ({'; '.join(changed[:4])}): resume without settings of your own"
        )


def _provenance(shop: Shop, *, finished: bool, seconds: float | None) -> dict[str, Any]:
    topology = shop.prior.topology
    return {
        "finished": finished,
        "seconds_of_last_start": seconds,
        "data": shop.data.provenance(),
        "seed": shop.config.training.seed,
        "graph": {
            "name": topology.name,
            "sizes": list(topology.sizes),
            "n_couplers": topology.n_edges,
            "content_hash": topology.content_hash,
        },
        "n_parameters": {
            "encoder": _count(shop.autoencoder.encoder),
            "decoder": _count(shop.autoencoder.layer_head) + _count(shop.autoencoder.voxel_head),
            "prior": _count(shop.prior),
        },
        "device": str(shop.fabric.device),
        "processes": shop.fabric.world_size,
        "threads": torch.get_num_threads(),
        "versions": {
            "calo4pqvae": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
    }


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
