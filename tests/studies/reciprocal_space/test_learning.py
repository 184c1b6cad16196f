"""Growth of modes in a gradient flow that is integrated here, and in a training on bits with planted correlations."""

from pathlib import Path

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.standalone.settings import PriorRunConfig
from calo4pqvae.studies.frame.along_training import Training, training_of
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.reciprocal_space.learning import learn_modes

N_VISIBLE, N_HIDDEN = 40, 24


def correlated_bits(n: int = 1500) -> BitsFile:
    """Bits that follow the signs of three hidden Gaussians of different strengths."""
    rng = np.random.default_rng(0)
    loads = np.zeros((3, N_VISIBLE))
    for k, strength in enumerate((2.0, 1.2, 0.7)):
        loads[k, 12 * k : 12 * (k + 1)] = strength
    fields = rng.normal(size=(n, 3)) @ loads + rng.normal(size=(n, N_VISIBLE))
    return BitsFile((fields > 0).astype(np.uint8), None, None, None, "planted")


def flow(data: BitsFile, spread: float = 0.005) -> Training:
    """The linear gradient flow, integrated in small steps; rate one, so that a step is a hundredth of time."""
    config = PriorRunConfig(
        n_hidden=N_HIDDEN,
        epochs=400,
        batch_size=1500,
        learning_rate=0.01,
        learning_rate_final=0.01,
        coupling_std=spread,
    )
    covariance = np.cov(data.bits.T.astype(float), bias=True)
    matrix = covariance - np.diag(np.diag(covariance))
    block = np.random.default_rng(1).normal(0, spread, (N_VISIBLE, N_HIDDEN))
    topology = bipartite_topology(N_VISIBLE, N_HIDDEN)
    steps, machines = [], []
    for step in range(401):
        if step % 50 == 0:
            machine = BoltzmannMachine(topology)
            with torch.no_grad():
                machine.couplings.copy_(torch.from_numpy(block.ravel()))
            steps.append(step)
            machines.append(machine)
        block = block + 0.01 * matrix @ block / 4
    hidden = topology.is_in_partition(1)
    return Training(tuple(steps), tuple(machines), data, hidden, config)


def test_rates_of_the_flow_are_those_of_the_data() -> None:
    data = correlated_bits()
    found = learn_modes(flow(data), 5)
    assert found.times[-1] == pytest.approx(4.0)
    assert found.n_window == 8
    assert found.rates == pytest.approx(found.theory, rel=0.01)
    assert found.rank_correlation == pytest.approx(1.0)
    covariance = np.cov(data.bits.T.astype(float), bias=True)
    eigenvalues = np.linalg.eigvalsh(covariance - np.diag(np.diag(covariance)))[::-1]
    assert found.strengths == pytest.approx(eigenvalues[:5])


def test_rates_are_not_those_of_data_with_their_diagonal() -> None:
    """The power of the test: with the variances left in, the theory is off by more than five per cent."""
    data = correlated_bits()
    found = learn_modes(flow(data), 3)
    wrong = np.linalg.eigvalsh(np.cov(data.bits.T.astype(float), bias=True))[::-1][:3] / 4
    assert (np.abs(wrong / found.rates - 1) > 0.05).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Training:
    folder: Path = tmp_path_factory.mktemp("learning")
    correlated_bits().write(folder / "bits.h5")
    config = PriorRunConfig(
        data=str(folder / "bits.h5"), n_hidden=N_HIDDEN, epochs=40, batch_size=150, n_chains=150, n_sweeps=2,
        learning_rate=0.1, learning_rate_final=0.05, n_saved=25, coupling_std=0.01, seed=3, threads=1,
    )  # fmt: skip
    return training_of(config, folder / "run", "training", silent)


def test_a_real_training_begins_with_the_flow(trained: Training) -> None:
    found = learn_modes(trained, 3)
    assert found.n_window >= 5
    assert found.rates == pytest.approx(found.theory, rel=0.15)
    assert found.alignment[-1] > 0.5 > found.alignment[0]
    reached = found.crossings[~np.isnan(found.crossings)]
    assert len(reached) >= 2
    assert (np.diff(reached) >= 0).all()


def test_what_cannot_be_followed_is_refused(trained: Training) -> None:
    late = Training(trained.steps[-3:], trained.machines[-3:], trained.data, trained.hidden, trained.config)
    with pytest.raises(PriorError, match="couplings were small"):
        learn_modes(late, 3)
    visible = Training(trained.steps, trained.machines, trained.data, np.zeros_like(trained.hidden), trained.config)
    with pytest.raises(PriorError, match="one hidden partition"):
        learn_modes(visible, 3)
