"""The stages of refiners: each is fitted to showers of the finished model and of the refiners before it."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from calo4pqvae.config import Config
from calo4pqvae.models.model import Draws
from calo4pqvae.models.refiners.refiner import part_name
from calo4pqvae.models.refiners.registry import make_refiners
from calo4pqvae.runs.generation import load_model
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.workshop.bench import Bench, Stage

__all__ = ["refiner_stages"]

_MOST_SHOWERS = 10_000


def refiner_stages(config: Config, geometry: Geometry) -> Sequence[Stage]:
    """One stage a refiner, in the order of the settings.

    Raises:
        ConfigError: If a refiner is unknown.
    """
    return [Stage(part_name(name), partial(_fit, name)) for name in make_refiners(config, geometry)]


def _fit(name: str, bench: Bench) -> None:
    if bench.fabric.is_global_zero:
        refiners = make_refiners(bench.config, bench.data.geometry)
        before = bench.config.model.refiners[: bench.config.model.refiners.index(name)]
        refiners[name].fit(_pairs(bench, before, part_name(name)))
        bench.run.save_tensors(part_name(name), refiners[name].tensors())
    bench.fabric.barrier()


@torch.no_grad()
def _pairs(bench: Bench, before: Sequence[str], stage: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """True and drawn showers at the energies of training showers, chunk by chunk."""
    model = load_model(bench.run.path, changes={"model.refiners": list(before)})
    source = next(iter(model.sources))
    rows = bench.data.train[:_MOST_SHOWERS]
    size = bench.config.generation.chunk
    for chunk, (true, energies) in enumerate(bench.data.chunks(rows, size)):
        drawn = model.generate(energies, source, Draws(bench.seed, chunk))
        for refiner in model.refiners:
            drawn = refiner.refine(drawn, energies)
        yield true, drawn, energies
        bench.report(stage, min((chunk + 1) * size, len(rows)), len(rows), {})
