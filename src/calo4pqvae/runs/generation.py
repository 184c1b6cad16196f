"""Generation: incident energies to showers of any model, streamed to disk.

Showers are made in chunks of fixed size, each with random streams of its own, named by the seed and the chunk. The
showers of a file are therefore a function of the model, the energies, the seed and the chunk size: they do not depend
on how many processes made them, nor on where a chunk was made. Under torchrun each process writes the chunks of one
contiguous part, and an HDF5 virtual data set reads the parts as one file.
"""

import atexit
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from calo4pqvae import __version__
from calo4pqvae.errors import ConfigError, DataError
from calo4pqvae.models.model import Draws, Model, Part
from calo4pqvae.models.refiners.refiner import part_name
from calo4pqvae.models.refiners.registry import make_refiners
from calo4pqvae.models.registry import find_family
from calo4pqvae.seeds import stream
from calo4pqvae.showers.energies import check_energies
from calo4pqvae.showers.files import ShowerFile, ShowerWriter, write_virtual
from calo4pqvae.workshop.processes import process_rank
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["generate", "load_model", "parse_energies", "reconstruct", "stream_showers"]

Progress = Callable[[int, int], None]


def load_model(path: Path, device: str = "cpu", changes: Mapping[str, Any] | None = None) -> Model:
    """Loads a run of any family.

    Args:
        path: Run directory.
        device: ``cpu``, ``cuda`` or ``auto``.
        changes: Settings of the generation that shall differ from those of the run, by dotted names.

    Raises:
        CheckpointError: If the run has no trained networks or prior, or its files are damaged.
        ConfigError: If the device is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but no CUDA device is there: use 'cpu' or 'auto'")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    run = RunDirectory.open(path)
    config = run.config().replace(changes or {})
    family = find_family(config.model.family)
    parts = {name: Part(*run.load_tensors(name)) for name in family.parts}
    model = family.load(config, parts, path.name, chosen)
    refiners = make_refiners(config, model.geometry)
    for name, refiner in refiners.items():
        refiner.load(run.load_tensors(part_name(name))[0])
    return replace(model, refiners=tuple(refiners.values()))


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
    model: Model,
    energies: Tensor,
    out: Path,
    *,
    seed: int,
    source: str | None = None,
    progress: Progress | None = None,
) -> float:
    """Generates showers into a CaloChallenge file.

    Args:
        model: The model.
        energies: Incident energies (n, 1) in MeV.
        out: File to write; under torchrun, each process writes ``out.part-R-of-P.hdf5`` beside it.
        seed: Seed of everything random.
        source: Where the showers come from, one of the model's sources; default: the first.
        progress: Called with showers done and to do (of this process).

    Returns:
        Showers per second, of all processes together.

    Raises:
        ConfigError: If the model has no such source.
        DataError: If an energy is out of range.
        OutputError: If the file cannot be written; what stood there before is untouched.
    """
    name = source or next(iter(model.sources))
    model.random_source(name)
    attributes = model.attributes(name, len(energies))
    return stream_showers(
        model,
        energies,
        out,
        lambda part, draws: model.generate(part, name, draws),
        seed=seed,
        attributes=attributes,
        progress=progress,
    )


def reconstruct(model: Model, showers: Path, out: Path, *, seed: int, progress: Progress | None = None) -> float:
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
        ConfigError: If the model has no encoder.
        DataError: If the showers do not fit the model.
        OutputError: If the file cannot be written.
    """
    name = next((key for key, source in model.sources.items() if source.from_showers), None)
    if name is None:
        raise ConfigError(f"{model.origin} has no encoder: showers cannot be reconstructed, use generate")
    with ShowerFile(showers, model.geometry) as file:
        energies = torch.from_numpy(file.incident_energies().astype(np.float32))
        check_energies(energies, model.config.data.energy_min_mev, model.config.data.energy_max_mev)
        size = model.config.generation.chunk

        def decoded(part: Tensor, draws: Draws) -> Tensor:
            start = draws.chunk * size
            voxels = file.read(start, start + len(part))
            if not np.isfinite(voxels).all():
                raise DataError(f"{showers} holds NaN or infinity: see `calo4pqvae data validate`")
            return model.reconstruct(torch.from_numpy(voxels).to(model.device), part, draws)

        attributes = model.attributes(name, len(energies))
        return stream_showers(model, energies, out, decoded, seed=seed, attributes=attributes, progress=progress)


def stream_showers(
    model: Model,
    energies: Tensor,
    out: Path,
    showers_of: Callable[[Tensor, Draws], Tensor],
    *,
    seed: int,
    attributes: Mapping[str, str | int | float],
    progress: Progress | None = None,
) -> float:
    """Writes showers chunk by chunk, whatever makes them.

    Args:
        model: The model that the file names.
        energies: Incident energies (n, 1) in MeV.
        out: File to write; one part a process under torchrun.
        showers_of: Showers (B, V) of a chunk of incident energies (B, 1), from its random streams.
        seed: Seed of the streams.
        attributes: What the file shall say beside model, seed and versions.
        progress: Called with showers done and to do (of this process).

    Returns:
        Showers per second, of all processes together.

    Raises:
        OutputError: If the file cannot be written; what stood there before is untouched.
    """
    rank, n_processes = process_rank()
    size = model.config.generation.chunk
    n_chunks = -(-len(energies) // size)
    first, last = rank * n_chunks // n_processes, (rank + 1) * n_chunks // n_processes
    parts = [out] if n_processes == 1 else _part_names(out, n_processes)
    total = len(energies[first * size : last * size])
    started, done = time.perf_counter(), 0
    told = _attributes(model, seed) | dict(attributes)
    with ShowerWriter(parts[rank], model.geometry.n_voxels, told, expected=total) as writer:
        for chunk in range(first, last):
            part = energies[chunk * size : (chunk + 1) * size].to(model.device)
            showers = showers_of(part, Draws(seed, chunk, model.device))
            for refiner in model.refiners:
                showers = refiner.refine(showers, part)
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


def _attributes(model: Model, seed: int) -> dict[str, str | int | float]:
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
