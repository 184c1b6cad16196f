"""Time of a training step and of generating a shower at dataset-2 size, on one CPU thread.

Claim: a ds2-size model (45 x 16 x 9 voxels, 4 x 302 Zephyr bits), batch 128, one thread: a training step with 500 block
Gibbs sweeps takes less than 1/20 of 50 s, and prior plus decoding less than 1/20 of 98.7 ms a shower. The two reference
figures were measured for the published implementation (QaloSim/CaloQuVAE, 134 M parameters, 122.6 M of them in the
decoder) on one thread of an x86 CPU whose float32 matrix product runs at 183 GFLOP/s; they are constants here, since
that code is not part of this project. This machine's own matrix rate is printed beside ours, so that the two can be
scaled.

A joint training step is timed: bound and its gradient, optimiser, negative phase, update of the machine. The showers
are bundled ones above 21.5 GeV: time depends on their number of hits, and with about 19 % of the voxels hit they are
about as full as those of dataset 2 (1 GeV to 1 TeV) are on average.

Run: python benchmarks/ds2_step.py [--repeats N]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from calo4pqvae.config import load_config
from calo4pqvae.models.qvae.family import untrained_model
from calo4pqvae.prior.learning.learner import LearningSettings, PriorLearner
from calo4pqvae.seeds import stream
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.store import ShowerStore

PUBLISHED_STEP_S = 50.0
PUBLISHED_SHOWER_MS = 98.7
PUBLISHED_GFLOPS = 183.0
BATCH = 128
SWEEPS = 500
LEAST_ENERGY_MEV = 21.5e3


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of some runs after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matrix_gflops(repeats: int, size: int = 2048) -> float:
    """Rate of a float32 matrix product."""
    first, second = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / median_seconds(lambda: first @ second, repeats) / 1e9


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    config = load_config("zephyr-ds2")
    model = untrained_model(config)
    autoencoder, prior = model.autoencoder, model.prior
    store = ShowerStore.from_file(bundled_path("heldout"), autoencoder.geometry)
    showers, energies = store.batch(np.flatnonzero(store.incident_energies[:, 0] > LEAST_ENERGY_MEV)[: 3 * BATCH])
    autoencoder.fit_observables([(showers, energies)])
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=1e-3)
    settings = LearningSettings(learning_rate=0.001, n_sweeps=SWEEPS, n_chains=BATCH)
    learner = PriorLearner(prior.machine, settings, stream(1, "chains"), prior.clamped)
    batch, batch_energies = showers[:BATCH], energies[:BATCH]

    def networks() -> torch.Tensor:
        uniform = torch.rand(BATCH, prior.n_bits)
        terms, posterior = autoencoder.loss_terms(batch, batch_energies, uniform, 0.5, prior.energy)
        optimizer.zero_grad()
        terms.total(config.training.kl_weight).backward()
        optimizer.step()
        return posterior.bits.detach()

    def step() -> None:
        bits = networks()
        learner.step(prior.states(bits, batch_energies), prior.condition(batch_energies))

    def draw() -> torch.Tensor:
        return model.draw_bits(batch_energies, "boltzmann", SWEEPS, stream(1, "bits"))

    bits = draw()
    gflops = matrix_gflops(repeats)
    step_s, networks_s = median_seconds(step, repeats), median_seconds(networks, repeats)
    prior_ms = 1e3 * median_seconds(draw, repeats) / BATCH
    decode_ms = (
        1e3 * median_seconds(lambda: autoencoder.decode(bits, batch_energies, stream(1, "decode")), repeats) / BATCH
    )
    shower_ms = prior_ms + decode_ms
    n_parameters = sum(parameter.numel() for parameter in autoencoder.parameters())
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, {gflops:.0f} GFLOP/s in float32 matrix products")
    print(f"{n_parameters / 1e6:.1f} M parameters, graph {prior.topology.name}, {prior.topology.n_edges} couplers")
    print(f"batch {BATCH}, {SWEEPS} sweeps, occupancy {float((batch > 0).float().mean()):.3f}, median of {repeats}")
    print(
        f"training step: {step_s:.2f} s (networks {networks_s:.2f} s), {PUBLISHED_STEP_S / step_s:.1f} x the published"
    )
    print(
        f"shower: {shower_ms:.2f} ms (prior {prior_ms:.2f}, decoding {decode_ms:.2f}), "
        f"{PUBLISHED_SHOWER_MS / shower_ms:.1f} x the published"
    )
    print(f"published: {PUBLISHED_STEP_S:g} s and {PUBLISHED_SHOWER_MS:g} ms at {PUBLISHED_GFLOPS:g} GFLOP/s")


if __name__ == "__main__":
    main()
