r"""Generation: incident energies to latent bits to showers, streamed to disk.

Showers are made in chunks of fixed size, each with random streams of its own, named by the seed and the chunk. The
showers of a file are therefore a function of the model, the energies, the seed and the chunk size: they do not depend
on how many processes made them, nor on where a chunk was made. Under torchrun each process writes the chunks of one
contiguous part, and an HDF5 virtual data set reads the parts as one file.
"""

import atexit
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from torch import Generator, Tensor

from calo4pqvae import __version__
from calo4pqvae.config import Config
from calo4pqvae.errors import CheckpointError, ConfigError, DataError
from calo4pqvae.models.qvae.latent_prior import LatentPrior, build_topology, independent_baseline
from calo4pqvae.models.qvae.vae import ShowerAutoencoder
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.seeds import stream
from calo4pqvae.showers.energies import check_energies
from calo4pqvae.showers.files import ShowerFile, ShowerWriter, write_virtual
from calo4pqvae.workshop.data import training_grid
from calo4pqvae.workshop.processes import process_rank
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["BitSource", "TrainedModel", "decode_bits", "generate", "load_model", "parse_energies", "reconstruct"]

BitSource = Literal["boltzmann", "independent"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainedModel:
    """Networks and prior of a finished run, ready to generate.

    Attributes:
        config: Settings of the run.
        autoencoder: Encoder and decoder.
        prior: Boltzmann machine of the latent bits.
        baseline: Independent bits of the same means.
        gains: Calibration of layers (3, L) for each source of bits.
        origin: Name of the run and its graph.
    """

    config: Config
    autoencoder: ShowerAutoencoder
    prior: LatentPrior
    baseline: LatentPrior
    gains: Mapping[str, Tensor]
    origin: str

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.prior.machine.device

    def draw_bits(self, energies: Tensor, source: BitSource, n_sweeps: int, generator: Generator) -> Tensor:
        """Latent bits (B, n_bits) at incident energies (B, 1) in MeV."""
        if source == "independent":
            return self.baseline.sample(energies, 1, generator)
        return self.prior.sample(energies, n_sweeps, generator)


def load_model(path: Path, device: str = "cpu") -> TrainedModel:
    """Loads a run.

    Args:
        path: Run directory.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        CheckpointError: If the run has no trained networks or prior, or its files are damaged.
        ConfigError: If the device is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but no CUDA device is there: use 'cpu' or 'auto'")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    run = RunDirectory.open(path)
    config = run.config()
    networks, _ = run.load_tensors("autoencoder")
    stored, notes = run.load_tensors("prior")
    try:
        graph = {name.removeprefix("graph."): stored[name].numpy() for name in stored if name.startswith("graph.")}
        topology = Topology.from_arrays(graph)
        prior = LatentPrior(config, topology)
        machine = {name.removeprefix("machine."): stored[name] for name in stored if name.startswith("machine.")}
        prior.machine.load_state_dict(machine)
        autoencoder = ShowerAutoencoder(config, training_grid(config), prior.level_sizes)
        autoencoder.load_state_dict(networks)
        baseline = independent_baseline(prior, config, stored["bit_means"])
        gains = {source: stored[f"layer_gain.{source}"].to(chosen) for source in ("boltzmann", "independent")}
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"the weights in {path} do not fit its config.toml ({str(error).splitlines()[0]}): "
            "restore both or train again"
        ) from error
    origin = f"{path.name} (graph {notes.get('graph', topology.name)})"
    return TrainedModel(config, autoencoder.eval().to(chosen), prior.to(chosen), baseline.to(chosen), gains, origin)


def untrained_model(config: Config) -> TrainedModel:
    """A model with fresh weights, for timing."""
    torch.manual_seed(config.training.seed)
    prior = LatentPrior(config, build_topology(config))
    prior.machine.initialise(torch.full((prior.machine.n_nodes,), 0.5), 0.1, stream(config.training.seed, "couplings"))
    autoencoder = ShowerAutoencoder(config, training_grid(config), prior.level_sizes).eval()
    baseline = independent_baseline(prior, config, torch.full((prior.n_bits,), 0.5))
    return TrainedModel(config, autoencoder, prior, baseline, {}, "untrained")


def parse_energies(text: str, n: int | None, seed: int, energy_range: tuple[float, float]) -> Tensor:
    """Incident energies that a user asked for.

    Args:
        text: ``LOW:HIGH:log`` or ``LOW:HIGH:lin`` (drawn from the seed), a list ``1000,5000,20000`` (dealt out evenly
            over ``n`` showers), or the path of a file with ``incident_energies``; all in MeV.
        n: Number of showers; for a list and a file it may be None, meaning one each, or all.
        seed: Seed of drawn energies.
        energy_range: Ends of the range that the model knows, in MeV.

    Returns:
        Energies (n, 1) in MeV, float32.

    Raises:
        DataError: If the text cannot be understood, or an energy is out of range.
    """
    if n is not None and n < 1:
        raise DataError(f"{n} showers cannot be generated: ask for at least one")
    if _is_file(text):
        energies = _energies_of_file(Path(text), n)
    elif ":" in text:
        energies = _drawn_energies(text, n, seed)
    else:
        energies = _listed_energies(text, n)
    check_energies(energies, *energy_range)
    return energies


def generate(
    model: TrainedModel,
    energies: Tensor,
    out: Path,
    *,
    seed: int,
    source: BitSource = "boltzmann",
    n_sweeps: int | None = None,
    progress: Progress | None = None,
) -> float:
    """Generates showers into a CaloChallenge file.

    Args:
        model: The model.
        energies: Incident energies (n, 1) in MeV.
        out: File to write; under torchrun, each process writes ``out.part-R-of-P.hdf5`` beside it.
        seed: Seed of everything random.
        source: Prior of the bits: the Boltzmann machine or the baseline of independent bits.
        n_sweeps: Block Gibbs sweeps a chunk; default: the configuration's.
        progress: Called with showers done and to do (of this process).

    Returns:
        Showers per second, of all processes together.

    Raises:
        DataError: If an energy is out of range.
        OutputError: If the file cannot be written; what stood there before is untouched.
    """
    sweeps = n_sweeps or model.config.generation.n_sweeps

    def bits_of(chunk: int, part: Tensor) -> Tensor:
        return model.draw_bits(part, source, sweeps, stream(seed, "bits", chunk, device=model.device))

    kernel = model.prior.sampler.choose(min(len(energies), model.config.generation.chunk), model.prior.clamped)
    attributes = _attributes(model, seed) | {"prior": source, "n_sweeps": sweeps, "sampling_kernel": str(kernel)}
    return _stream_showers(model, energies, out, bits_of, seed, attributes, progress, model.gains.get(source))


def decode_bits(
    model: TrainedModel,
    energies: Tensor,
    bits: Tensor,
    out: Path,
    *,
    seed: int,
    attributes: Mapping[str, str | int | float],
    progress: Progress | None = None,
) -> float:
    """Decodes bits of the Boltzmann machine that were drawn elsewhere, on an annealer for example, into a shower file.

    Args:
        model: The model.
        energies: Incident energies (n, 1) in MeV.
        bits: Latent bits (n, n_bits).
        out: File to write.
        seed: Seed of the decoder's draws.
        attributes: What the file shall say of the bits.
        progress: Called with showers done and to do.

    Returns:
        Showers per second.

    Raises:
        DataError: If there are not as many bits as energies, or the bits are those of another machine.
        OutputError: If the file cannot be written; what stood there before is untouched.
    """
    if bits.shape != (len(energies), model.prior.n_bits):
        raise DataError(
            f"bits of shape {tuple(bits.shape)} for {len(energies)} showers of {model.prior.n_bits} bits: give one "
            "row a shower"
        )
    size = model.config.generation.chunk

    def bits_of(chunk: int, part: Tensor) -> Tensor:
        return bits[chunk * size : chunk * size + len(part)].to(model.device)

    told = _attributes(model, seed) | dict(attributes)
    return _stream_showers(model, energies, out, bits_of, seed, told, progress, model.gains.get("boltzmann"))


def reconstruct(model: TrainedModel, showers: Path, out: Path, *, seed: int, progress: Progress | None = None) -> float:
    """Encodes the showers of a file and decodes their posterior bits into another file.

    Args:
        model: The model.
        showers: CaloChallenge file; its incident energies are kept.
        out: File to write.
        seed: Seed of everything random.
        progress: Called with showers done and to do.

    Returns:
        Showers per second.

    Raises:
        DataError: If the showers do not fit the model.
        OutputError: If the file cannot be written.
    """
    with ShowerFile(showers, model.autoencoder.geometry) as file:
        energies = torch.from_numpy(file.incident_energies().astype(np.float32))
        check_energies(energies, model.config.data.energy_min_mev, model.config.data.energy_max_mev)
        size = model.config.generation.chunk

        def bits_of(chunk: int, part: Tensor) -> Tensor:
            start = chunk * size
            voxels = file.read(start, start + len(part))
            if not np.isfinite(voxels).all():
                raise DataError(f"{showers} holds NaN or infinity: see `calo4pqvae data validate`")
            true = torch.from_numpy(voxels).to(model.device)
            noise = torch.rand(len(part), model.prior.n_bits, generator=stream(seed, "posterior", chunk))
            with torch.no_grad():
                return model.autoencoder.encode(true, part, noise.to(model.device)).bits

        attributes = _attributes(model, seed) | {"prior": "posterior bits (reconstruction)"}
        return _stream_showers(model, energies, out, bits_of, seed, attributes, progress)


def _stream_showers(
    model: TrainedModel,
    energies: Tensor,
    out: Path,
    bits_of: Callable[[int, Tensor], Tensor],
    seed: int,
    attributes: Mapping[str, str | int | float],
    progress: Progress | None,
    layer_gain: Tensor | None = None,
) -> float:
    rank, n_processes = process_rank()
    size = model.config.generation.chunk
    n_chunks = -(-len(energies) // size)
    first, last = rank * n_chunks // n_processes, (rank + 1) * n_chunks // n_processes
    parts = [out] if n_processes == 1 else _part_names(out, n_processes)
    total = len(energies[first * size : last * size])
    started, done = time.perf_counter(), 0
    with ShowerWriter(parts[rank], model.autoencoder.geometry.n_voxels, attributes, expected=total) as writer:
        for chunk in range(first, last):
            part = energies[chunk * size : (chunk + 1) * size].to(model.device)
            drawing = stream(seed, "decode", chunk, device=model.device)
            showers = model.autoencoder.decode(bits_of(chunk, part), part, drawing, layer_gain)
            writer.append(part.cpu().numpy(), showers.cpu().numpy())
            done += len(part)
            if progress is not None:
                progress(done, total)
    if n_processes > 1:
        _join_parts(out, parts, rank)
    return len(energies) / max(time.perf_counter() - started, 1e-9)


def _join_parts(out: Path, parts: list[Path], rank: int) -> None:
    """Waits for all processes, then lets the first one write the file that reads the parts as one."""
    if not torch.distributed.is_initialized():  # once a process: torchrun's meeting point does not serve a second time
        torch.distributed.init_process_group("gloo")
        atexit.register(torch.distributed.destroy_process_group)
    torch.distributed.barrier()
    if rank == 0:
        write_virtual(out, parts)
    torch.distributed.barrier()


def _part_names(out: Path, n_processes: int) -> list[Path]:
    return [out.with_name(f"{out.stem}.part-{rank}-of-{n_processes}{out.suffix}") for rank in range(n_processes)]


def _attributes(model: TrainedModel, seed: int) -> dict[str, str | int | float]:
    return {
        "generator": f"calo4pqvae {__version__} (a generative model, not Geant4)",
        "model": model.origin,
        "seed": seed,
        "chunk": model.config.generation.chunk,
        "torch": str(torch.__version__),
        "units": "MeV",
    }


def _drawn_energies(text: str, n: int | None, seed: int) -> Tensor:
    ends, kind = (text, "log") if text.count(":") == 1 else text.rsplit(":", 1)
    try:
        low, high = (float(end) for end in ends.split(":"))
    except ValueError as error:
        raise DataError(f"'{text}' is no range of energies: write LOW:HIGH:log or LOW:HIGH:lin in MeV") from error
    if kind not in ("log", "lin") or not 0 < low <= high < float("inf"):
        raise DataError(f"'{text}' is no range of energies: write LOW:HIGH:log or LOW:HIGH:lin in MeV, 0 < LOW <= HIGH")
    if n is None:
        raise DataError("a range of energies needs the number of showers (--n)")
    uniform = torch.rand(n, 1, generator=stream(seed, "energies"), dtype=torch.float64)
    if kind == "lin":
        return (low + (high - low) * uniform).float()
    return (low * (high / low) ** uniform).float()


def _listed_energies(text: str, n: int | None) -> Tensor:
    try:
        values = torch.tensor([float(part) for part in text.split(",")], dtype=torch.float32)
    except ValueError as error:
        raise DataError(
            f"'{text}' is neither a range LOW:HIGH:log, nor a list of energies in MeV, nor an existing file"
        ) from error
    rounds = -(-(n or len(values)) // len(values))
    return values.repeat(rounds)[: n or len(values), None]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a list longer than any file name
        return False


def _energies_of_file(path: Path, n: int | None) -> Tensor:
    try:
        with h5py.File(path, "r") as file:
            energies = np.asarray(file["incident_energies"], dtype=np.float32)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} gives no incident energies ({error}): it needs the field incident_energies") from error
    if energies.size == 0 or energies.shape not in ((energies.size,), (energies.size, 1)):
        raise DataError(f"{path} has incident_energies of shape {energies.shape}: they must be (showers, 1)")
    if n is not None and n > len(energies):
        raise DataError(f"{path} has {len(energies)} incident energies, fewer than the {n} showers asked for")
    return torch.from_numpy(energies[:n].reshape(-1, 1))
