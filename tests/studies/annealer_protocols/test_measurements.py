"""What the protocol study measures: requests by hand, errors against closed forms, and the account of a protocol."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from calo4pqvae.annealer.beta.temperature_rules import AdditiveRule
from calo4pqvae.annealer.calls.ledger import Totals
from calo4pqvae.annealer.protocols.conditioning import ClampReport
from calo4pqvae.annealer.protocols.named import BeforeEach, Once, SameReads
from calo4pqvae.annealer.protocols.run import BetaRecord, ProtocolResult
from calo4pqvae.config import load_config
from calo4pqvae.errors import ConfigError
from calo4pqvae.models.qvae.family import untrained_model
from calo4pqvae.models.qvae.trained import TrainedModel
from calo4pqvae.studies.annealer_protocols.machines import StudyMachine
from calo4pqvae.studies.annealer_protocols.measurements import (
    Geant4,
    ProtocolJudge,
    Requests,
    classical,
    measure,
    requests_of,
)

SEED = 5


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    config = load_config("demo").replace({"latent.bits_per_level": 8, "decoder.channels": 8})
    fresh = untrained_model(config)
    with torch.no_grad():
        fresh.prior.machine.couplings.normal_(0, 0.7, generator=torch.Generator().manual_seed(1))
    n_layers = fresh.autoencoder.geometry.n_layers
    return replace(fresh, gains={"boltzmann": torch.ones(3, n_layers)})


@pytest.fixture(scope="module")
def machine(model: TrainedModel) -> StudyMachine:
    return StudyMachine("A", "zephyr", model.prior, "untrained", 0.0, 1.0, 2)


@pytest.fixture(scope="module")
def energies() -> torch.Tensor:
    return torch.from_numpy(np.geomspace(1100, 9e4, 40)[np.random.default_rng(2).permutation(40)]).float()[:, None]


@pytest.fixture(scope="module")
def judge(model: TrainedModel, machine: StudyMachine, energies: torch.Tensor) -> ProtocolJudge:
    requests = requests_of(model.prior, energies, 30, 99)
    rng = np.random.default_rng(4)
    geant4 = Geant4(energies, rng.normal(size=(40, 362)), rng.normal(size=(40, 362)), energies, ("x",) * 362, "made up")
    truth = classical(model.prior, requests, 60, 40, torch.Generator().manual_seed(3))
    return ProtocolJudge(machine, requests, model, geant4, truth)


def test_requests_are_the_first_ones_sorted_by_condition(model: TrainedModel, energies: torch.Tensor) -> None:
    requests = requests_of(model.prior, energies, 30, 99)
    assert sorted(requests.energies[:, 0].tolist()) == sorted(energies[:30, 0].tolist())
    assert requests.counts.sum() == requests.n == 30
    rows = np.repeat(requests.conditions, requests.counts, axis=0)
    assert (rows == model.prior.code.encode(requests.energies).numpy()).all()
    assert len(np.unique(requests.conditions, axis=0)) == len(requests.conditions)
    assert (np.diff(requests.energies[:, 0].numpy()) >= 0).all()


def test_requests_at_few_conditions(model: TrainedModel, energies: torch.Tensor) -> None:
    requests = requests_of(model.prior, energies, 8, 3)
    assert len(requests.conditions) <= 3
    assert requests.n == 8
    few = requests.thinned(4)
    assert few.n == few.counts.sum() == 4
    rows = np.repeat(few.conditions, few.counts, axis=0)
    assert (rows == model.prior.code.encode(few.energies).numpy()).all()
    with pytest.raises(ConfigError, match="lower n_showers"):
        requests_of(model.prior, energies, 41, 99)


def test_errors_of_the_law_itself_are_noise_and_those_of_another_are_not(judge: ProtocolJudge) -> None:
    prior = judge.machine.prior
    right = classical(prior, judge.requests, 60, 1, torch.Generator().manual_seed(11))
    found = judge.errors(right, SEED)
    assert abs(found.energy) < 4 * found.energy_error
    coins = right.clone()
    free = ~torch.from_numpy(prior.clamped)
    coins[:, free] = torch.randint(
        0, 2, (len(coins), int(free.sum())), generator=torch.Generator().manual_seed(1)
    ).float()
    wrong = judge.errors(coins, SEED)
    assert abs(wrong.energy) > 4 * wrong.energy_error
    assert wrong.moments > 1.3 * found.moments
    assert judge.errors(right, SEED) == found


def test_energy_and_moments_by_the_formula(judge: ProtocolJudge) -> None:
    prior = judge.machine.prior
    states = classical(prior, judge.requests, 5, 1, torch.Generator().manual_seed(7))
    z, edges = states.double().numpy(), prior.topology.edges
    biases, couplings = (part.detach().double().numpy() for part in (prior.machine.biases, prior.machine.couplings))
    pairs = z[:, edges[:, 0]] * z[:, edges[:, 1]]
    values = -z @ biases - pairs @ couplings
    found = judge.errors(states, SEED)
    assert found.energy + judge.truth.energy == pytest.approx(values.mean(), abs=1e-4)
    assert found.energy_error == pytest.approx(values.std(ddof=1) / math.sqrt(30), rel=1e-4)
    assert found.moments == pytest.approx(math.sqrt(((pairs.mean(axis=0) - judge.truth.moments) ** 2).mean()), rel=1e-4)


def test_what_a_protocol_knew_is_held_against_the_hidden_truth(judge: ProtocolJudge) -> None:
    protocol = SameReads(correction="none", start=9.5)
    found = measure(judge.machine, judge.requests, protocol, "ideal", 3, judge, 10)
    assert found.n == 30
    assert found.programmings == len(judge.requests.counts) / 30
    assert found.reads == 100 * len(judge.requests.counts) / 30
    assert found.known < 0.15
    assert found.drawn < 0.15
    assert math.isfinite(found.raw.distance)
    assert math.isfinite(found.polished.distance)
    assert found.failure == ""


def test_account_of_a_protocol_of_single_reads(judge: ProtocolJudge) -> None:
    few = judge.requests.thinned(6)
    found = measure(judge.machine, few, Once(max_programmings=1, reference_sweeps=20), "ideal", 3)
    assert found.programmings == 7 / 6
    assert found.reads == (256 + 6) / 6
    assert 0.03 < found.access_s < 0.06  # a programming takes 33.6 ms
    assert math.isnan(found.raw.energy)  # nobody judged the states


def test_protocols_that_fail_say_why(judge: ProtocolJudge) -> None:
    protocol = BeforeEach(rule=AdditiveRule(gain=100.0), start=4.0, reference_sweeps=20)
    found = measure(judge.machine, judge.requests, protocol, "ideal", 3, judge, 5)
    assert "take Newton's rule" in found.failure
    assert math.isnan(found.access_s)
    assert found.n == 0


def test_geant4_floor_has_the_same_conditions(judge: ProtocolJudge) -> None:
    assert judge.geant4_floor(torch.Generator().manual_seed(1)) > 0
    short = ProtocolJudge(
        judge.machine,
        Requests(judge.requests.conditions[:1], np.array([500]), judge.requests.energies[:1].repeat(500, 1)),
        judge.model,
        judge.geant4,
        classical(judge.machine.prior, judge.requests, 1, 17, torch.Generator())[:500],
    )
    with pytest.raises(ConfigError, match="training showers for 500 requests"):
        short.geant4_floor(torch.Generator())


def test_geant4_at_conditions(judge: ProtocolJudge) -> None:
    prior = judge.machine.prior
    chosen = judge.geant4.at(prior, judge.requests.conditions[:2])
    code = prior.code.encode(chosen.energies).numpy()
    assert {tuple(row) for row in code} == {tuple(row) for row in judge.requests.conditions[:2]}
    assert len(chosen.features) == len(chosen.energies) < 40


def test_record_of_the_calls_is_in_the_result() -> None:
    record = BetaRecord(0, 8.0, None, 3, 100, 8.4, 0.1, (4,))
    clamp = ClampReport(1, 0, 0, 0, None, "reject")
    result = ProtocolResult(
        "x",
        np.zeros((3, 2), np.uint8),
        np.zeros(3, np.int64),
        np.zeros(3),
        (record,),
        Totals(),
        clamp,
        None,
        "none",
        True,
    )
    assert result.betas[0].ratio == pytest.approx(1.05)
    assert result.betas[0].calls == (4,)
