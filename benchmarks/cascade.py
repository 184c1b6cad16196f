"""The voxel laws beside each other, in one process: CPU milliseconds a shower, drawn and learned.

Drawn: the cascade compiled, the cascade turn by turn in plain PyTorch, and the factorised law, all at the same layer
energies in batches of 500. Learned: a step of the cascade with the compiled likelihood and with the law in PyTorch, and
a step of the factorised law, a shower. Networks of the demo's size with fresh weights would draw other numbers of hits,
so that each law first takes a few steps on the bundled showers (`--steps`).

    python benchmarks/cascade.py
    python benchmarks/cascade.py --run runs/demo   # the cascade of a finished run
    python benchmarks/cascade.py --threads 2
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from calo4pqvae.config import load_config
from calo4pqvae.models.qvae.cascade.cascade import Cascade, turn_outputs
from calo4pqvae.models.qvae.cascade.law import Spectra, SplitLaw
from calo4pqvae.models.qvae.family import untrained_model
from calo4pqvae.models.qvae.trained import as_qvae
from calo4pqvae.runs.generation import load_model
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.store import ShowerStore
from calo4pqvae.showers.transforms import apply_threshold

BATCH, STEP = 500, 12


def main() -> None:
    """Prints a table with ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cascade = fresh_cascade() if options.run is None else run_cascade(options.run)
    factorised = untrained_model(load_config("demo", ["decoder.kind=factorised", "decoder.channels=24"])).autoencoder
    store = ShowerStore.from_file(bundled_path("train"), cascade.geometry)
    showers, energies = store.batch(range(BATCH))
    true = apply_threshold(showers, cascade.geometry.threshold_mev)
    factorised.fit_observables([(true, energies)])
    teach(cascade, true, energies, options.steps if options.run is None else 0)
    teach_factorised(factorised, true, energies, options.steps)
    layers = true.view(BATCH, cascade.n_layers, -1).sum(2)
    few = slice(0, 20)
    bits = torch.rand(BATCH, factorised.n_bits, generator=torch.Generator().manual_seed(1)).round()
    print(f"{options.threads} threads, batch {BATCH}, {float((true > 0).sum(1).float().mean()):.0f} hits a shower")
    drawn = {
        "cascade, compiled": milliseconds(lambda g: cascade.sample(layers, energies, g), BATCH),
        "cascade, plain": milliseconds(lambda g: cascade.sample_plainly(layers[few], energies[few], g), 20, repeats=1),
        "factorised": milliseconds(lambda g: factorised.decode(bits, energies, g), BATCH),
    }
    table("drawn", drawn)
    learned = {
        "cascade, compiled": milliseconds(lambda _: step(cascade, true[:STEP], energies[:STEP]), STEP),
        "cascade, law in PyTorch": milliseconds(lambda _: plain_step(cascade, true[:STEP], energies[:STEP]), STEP),
        "factorised": milliseconds(lambda _: factorised_step(factorised, true[:64], energies[:64]), 64),
    }
    table("learned", learned)


def fresh_cascade() -> Cascade:
    """A cascade of the demo's size."""
    law = untrained_model(load_config("demo")).autoencoder.voxel_head
    assert isinstance(law, Cascade)
    return law


def run_cascade(path: Path) -> Cascade:
    """The cascade of a finished run."""
    law = as_qvae(load_model(path)).autoencoder.voxel_head
    assert isinstance(law, Cascade), "the run has another voxel law"
    return law.requires_grad_(True)


def teach(cascade: Cascade, showers: Tensor, energies: Tensor, steps: int) -> None:
    """A few steps, so that draws have about the right number of hits."""
    if steps:
        cascade.start_spectra(showers)
    optimizer = torch.optim.Adam(cascade.parameters(), lr=4e-3)
    for number in range(steps):
        rows = slice(STEP * number % (BATCH - STEP), STEP * number % (BATCH - STEP) + STEP)
        optimizer.zero_grad()
        step(cascade, showers[rows], energies[rows])
        optimizer.step()


def teach_factorised(networks: torch.nn.Module, showers: Tensor, energies: Tensor, steps: int) -> None:
    """The same for the factorised law."""
    optimizer = torch.optim.Adam([p for p in networks.parameters() if p.requires_grad], lr=2e-3)
    for number in range(steps):
        rows = slice(64 * number % (BATCH - 64), 64 * number % (BATCH - 64) + 64)
        optimizer.zero_grad()
        factorised_step(networks, showers[rows], energies[rows])
        optimizer.step()


def step(cascade: Cascade, showers: Tensor, energies: Tensor) -> None:
    """Value and gradient with the compiled likelihood."""
    (-cascade.log_likelihood(showers, energies).mean()).backward()


def plain_step(cascade: Cascade, showers: Tensor, energies: Tensor) -> None:
    """The same through the law in PyTorch."""
    pyramids = cascade._pyramids(showers, energies)
    spectra, total = Spectra.of(cascade.spectra), torch.zeros(len(showers))
    weights = [values.unbind(0) for values in cascade._weights()]
    for turn in range(len(cascade.tree.turns)):
        batch, contexts, split = cascade._examples(pyramids, turn)
        raw = turn_outputs(contexts, [values[turn] for values in weights])
        law = SplitLaw(raw, spectra, cascade.n_logistic)
        total = total.index_add(0, batch, law.log_likelihood(*split))
    (-total.mean()).backward()


def factorised_step(networks: torch.nn.Module, showers: Tensor, energies: Tensor) -> None:
    """Value and gradient of the bound with the factorised law."""
    noise = torch.rand(len(showers), networks.n_bits, generator=torch.Generator().manual_seed(1))
    terms, _ = networks.loss_terms(showers, energies, noise, 0.5)
    terms.reconstruction().backward()


def milliseconds(work: Callable[[torch.Generator], object], n: int, repeats: int = 3) -> float:
    """Least CPU time a shower of some runs, after one that is not counted."""
    work(torch.Generator().manual_seed(0))
    times = []
    for number in range(repeats):
        started = time.process_time()
        work(torch.Generator().manual_seed(number))
        times.append(time.process_time() - started)
    return 1000 * min(times) / n


def table(title: str, found: dict[str, float]) -> None:
    """One line a law, with the ratio to the first."""
    first = next(iter(found.values()))
    for name, value in found.items():
        print(f"{title:8} {name:26} {value:8.2f} ms a shower   {value / first:6.2f} of the first")


if __name__ == "__main__":
    main()
