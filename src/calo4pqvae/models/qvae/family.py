r"""The quantum-assisted variational autoencoder behind the seam of model families.

Its settings are the sections ``condition``, ``latent``, ``encoder``, ``decoder`` and ``prior`` of the configuration.
What is trained in which order (``training.mode``):

* ``autoencoder``: the bound with fair coins as prior (weight ``kl_weight``), nothing else;
* ``joint``: the machine is the prior from the start and learns beside the networks. The encoder's loss holds the energy
  of its bits; the machine is moved by the contrastive gradient from block Gibbs statistics, with plain SGD of its own
  (``direct``) or with the networks' learning rate and Adam (``loss``: the older scheme of positive and negative energy
  inside one loss, whose gradient with samples held fixed is the same contrastive one; ``loss-covariance``: that loss
  differentiated whole, the law of the samples too, which is another direction, see
  :mod:`calo4pqvae.prior.learning.gradients`);
* ``prior``: the machine alone, on posterior bits exported by an earlier run;
* ``staged``: the layers by themselves (with factors, :mod:`calo4pqvae.models.qvae.layer_stage`), networks (with
  fair coins, or jointly if ``training.joint_networks``), then export of posterior bits with the networks frozen and in
  evaluation mode, then the machine: maximum pseudo-likelihood, then PCD.

Every mode that ends with a prior ends with the calibration of mean layers (:mod:`calo4pqvae.models.qvae.calibration`).
The loops themselves are in :mod:`calo4pqvae.models.qvae.loops`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from calo4pqvae.config import Config
from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.models.model import Family, Model, Part, Source, Trainee
from calo4pqvae.models.qvae.calibration import calibrate_layers
from calo4pqvae.models.qvae.factor_encoder import FactorEncoder
from calo4pqvae.models.qvae.latent_prior import LatentPrior, build_topology, find_latent_bands, independent_baseline
from calo4pqvae.models.qvae.layer_stage import has_layer_stage, train_layers
from calo4pqvae.models.qvae.loops import Learned, export_posterior, train_networks, train_prior, train_voxels
from calo4pqvae.models.qvae.trained import TrainedModel
from calo4pqvae.models.qvae.vae import ShowerAutoencoder
from calo4pqvae.prior.graph.bands import Bands
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.seeds import stream
from calo4pqvae.showers.transforms import apply_threshold
from calo4pqvae.workshop.bench import Bench, Stage
from calo4pqvae.workshop.checkpoints import load_module, with_prefix
from calo4pqvae.workshop.data import TrainingData, training_grid
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["QvaeFamily", "QvaeTrainee", "untrained_model"]

_CALIBRATION_SHOWERS = 5000


class QvaeFamily(Family):
    """Encoder, decoder and Boltzmann machine."""

    parts: ClassVar[Sequence[str]] = ("autoencoder", "prior")
    sources: ClassVar[Mapping[str, Source]] = TrainedModel.sources

    def trainee(self, config: Config, data: TrainingData) -> Trainee:
        """Fresh networks and machine.

        Raises:
            ConfigError: If the graph does not fit, or the run to start from is not named.
            CheckpointError: If the run to start from has other bits.
        """
        prior = LatentPrior(config, build_topology(config))
        if config.training.mode == "prior":
            _start_of(config, prior)  # what it lacks is told before anything is written
        return QvaeTrainee(config, data, prior)

    def load(self, config: Config, parts: Mapping[str, Part], origin: str, device: torch.device) -> Model:
        """Networks, machine, baseline and calibration of a finished run.

        Raises:
            CheckpointError: If the weights do not fit the settings.
        """
        stored, notes = parts["prior"].tensors, parts["prior"].notes
        try:
            graph = {name: tensor.numpy() for name, tensor in with_prefix(stored, "graph.").items()}
            topology = Topology.from_arrays(graph)
            prior = LatentPrior(config, topology)
            prior.machine.load_state_dict(with_prefix(stored, "machine."))
            autoencoder = ShowerAutoencoder(config, training_grid(config), prior.level_sizes)
            autoencoder.load_state_dict(dict(parts["autoencoder"].tensors))
            baseline = independent_baseline(prior, config, stored["bit_means"])
            gains = {source: stored[f"layer_gain.{source}"].to(device) for source in ("boltzmann", "independent")}
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"the weights of {origin} do not fit its config.toml ({str(error).splitlines()[0]}): "
                "restore both or train again"
            ) from error
        name = f"{origin} (graph {notes.get('graph', topology.name)})"
        return TrainedModel(config, name, autoencoder.eval().to(device), prior.to(device), baseline.to(device), gains)


class QvaeTrainee(Trainee):
    """Networks and machine while they are learned.

    Args:
        config: Settings.
        data: Training and validation showers.
        prior: The machine.
    """

    def __init__(self, config: Config, data: TrainingData, prior: LatentPrior) -> None:
        self.config = config
        torch.manual_seed(config.training.seed)
        self.learned = Learned(ShowerAutoencoder(config, data.geometry, prior.level_sizes), prior)
        self._has_layers = has_layer_stage(self.learned, config.training.layer_steps)
        self.learned.autoencoder.layer_head.requires_grad_(not self._has_layers)

    @property
    def stages(self) -> Sequence[Stage]:
        """Layers, networks, export of posterior bits, prior and calibration, as the mode asks for."""
        training, learned = self.config.training, self.learned
        joint = training.mode == "joint" or (training.mode == "staged" and training.joint_networks)
        stages = {
            "layers": Stage("layers", lambda bench: train_layers(bench, learned)),
            "networks": Stage("networks", lambda bench: train_networks(bench, learned, joint=joint)),
            "voxels": Stage("voxels", lambda bench: train_voxels(bench, learned)),
            "export": Stage("export", lambda bench: export_posterior(bench, learned)),
            "prior": Stage("prior", lambda bench: train_prior(bench, learned)),
            "calibration": Stage("calibration", lambda bench: _calibrate(bench, learned)),
        }
        names = {
            "autoencoder": ("voxels", "networks", "export"),
            "joint": ("voxels", "networks", "export", "calibration"),
            "staged": ("voxels", "networks", "export", "prior", "calibration"),
            "prior": ("prior", "calibration"),
        }[training.mode]
        first = ("layers",) if self._has_layers and training.mode != "prior" else ()
        apart = learned.autoencoder.voxels.is_learned_apart
        return [stages[name] for name in (*first, *names) if name != "voxels" or apart]

    def start(self, bench: Bench) -> None:
        """Scales from the training showers; in mode ``prior`` networks and posterior bits of another run."""
        if self.config.training.mode == "prior":
            _take_over(bench, self.learned.prior)
        else:
            self.learned.autoencoder.fit_observables(bench.data.chunks(bench.data.train))
            encoder = self.learned.autoencoder.encoder
            if isinstance(encoder, FactorEncoder):
                code = encoder.code
                code.lay(find_latent_bands(self.learned.prior, code.n_factors, code.length))

    def place(self, device: torch.device) -> None:
        """Puts the machine where it is learned; the networks follow with their optimiser."""
        self.learned.prior.to(device)

    def facts(self) -> dict[str, Any]:
        """Graph and numbers of parameters."""
        topology, networks = self.learned.prior.topology, self.learned.autoencoder
        return {
            "graph": {
                "name": topology.name,
                "sizes": list(topology.sizes),
                "n_couplers": topology.n_edges,
                "content_hash": topology.content_hash,
            },
            "bands": _bands_of(self.learned),
            "n_parameters": {
                "encoder": _count(networks.encoder),
                "decoder": _count(networks.layer_head) + _count(networks.voxel_head),
                "prior": _count(self.learned.prior),
            },
        }


def _bands_of(learned: Learned) -> dict[str, Any] | None:
    """Number and length of the bands, and the shares of their links that are coupled; None without factors."""
    encoder, prior = learned.autoencoder.encoder, learned.prior
    if not isinstance(encoder, FactorEncoder):
        return None
    bands = encoder.code.bands()
    shares = Bands(bands.nodes + prior.topology.n_nodes - prior.n_bits).link_shares(prior.topology)
    return {
        "n_factors": bands.n_bands,
        "nodes": bands.length,
        "coupled_at_distance": {str(distance): round(share, 4) for distance, share in shares.items()},
    }


def untrained_model(config: Config) -> TrainedModel:
    """A model with fresh weights, for timing."""
    torch.manual_seed(config.training.seed)
    prior = LatentPrior(config, build_topology(config))
    prior.machine.initialise(torch.full((prior.machine.n_nodes,), 0.5), 0.1, stream(config.training.seed, "couplings"))
    autoencoder = ShowerAutoencoder(config, training_grid(config), prior.level_sizes).eval()
    baseline = independent_baseline(prior, config, torch.full((prior.n_bits,), 0.5))
    return TrainedModel(config, "untrained", autoencoder, prior, baseline, {})


def _calibrate(bench: Bench, learned: Learned) -> None:
    """Fits the calibration of layers for both sources of bits and stores it with the prior, from the first process."""
    if bench.fabric.is_global_zero:
        stored, notes = bench.run.load_tensors("prior")
        load_module(learned.autoencoder, bench.run.load_tensors("autoencoder")[0])
        load_module(learned.prior.machine, with_prefix(stored, "machine."))
        learned.autoencoder.eval()
        baseline = independent_baseline(learned.prior, bench.config, stored["bit_means"]).to(bench.fabric.device)
        sources = {"boltzmann": (learned.prior, bench.config.generation.n_sweeps), "independent": (baseline, 1)}
        layers, energies = _layers_of(bench, learned, bench.data.train[:_CALIBRATION_SHOWERS])
        for source, (prior, n_sweeps) in sources.items():
            gain = torch.zeros(3, layers.shape[1])
            if bench.config.prior.calibrate:
                gain = calibrate_layers(
                    learned.autoencoder, prior, layers, energies, n_sweeps=n_sweeps, seed=bench.seed
                )
            stored[f"layer_gain.{source}"] = gain
        bench.run.save_tensors("prior", stored, **notes)
    bench.fabric.barrier()


def _layers_of(bench: Bench, learned: Learned, rows: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Layer energies and incident energies in MeV of rows of the store."""
    split, threshold = learned.autoencoder.observables.split, bench.data.geometry.threshold_mev
    parts = [
        (split.layer_energies(apply_threshold(showers, threshold)), energies)
        for showers, energies in bench.data.chunks(rows)
    ]
    layers, incident = zip(*parts, strict=True)
    return torch.cat(layers), torch.cat(incident)


def _take_over(bench: Bench, prior: LatentPrior) -> None:
    """Prior mode: networks and posterior bits come from another run."""
    other, found = _start_of(bench.config, prior)
    for name, tensors in found.items():
        bench.save_part(name, tensors)
    for row in other.metrics():
        if row["stage"] == "export":
            bench.log(row)
    bench.fabric.barrier()


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


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
