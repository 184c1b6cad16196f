r"""Training of the prior through an annealer, after the autoencoder, on exported posterior bits.

**A step**, as often as asked for:

1. a few conditions are chosen along the incident energy (:mod:`~calo4pqvae.annealed.conditioned_sample`);
2. the machine divided by the running estimate of beta is programmed once for each, the condition folded into the
   fields, and read; each call's reads are forced to disk before anything else is done with them;
3. the reads themselves tell beta, and are corrected for what it was wrong by
   (:mod:`~calo4pqvae.annealer.learning.negative_phase`);
4. the contrastive gradient of these conditions moves the machine (:mod:`~calo4pqvae.annealer.learning.read_learner`).

Where the reads stand for too few samples of the machine (their effective share is below a limit, as it may be at the
first programming, when beta is a guess), they serve the estimate of beta alone and no step is made.

**Resuming.** A step is a function of the state before it, of the reads, and of streams named by the seed and its
number. All reads that were paid for are on disk, so that a training that was killed at any moment is worked out again
from the last checkpoint and from them, and goes on where it stood. An emulator is brought back to its state first
(:mod:`~calo4pqvae.annealer.emulator.replay`): the result is that of a training in one go, bit for bit. A call that was
under way brought no reads and is made again; the ledger counts it with its estimate.

What is left is a run directory like any other, with a folder ``annealer`` in it: settings, ledger, reads, history, and
a report that compares with the prior of the run that it started from.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calo4pqvae.annealed.conditioned_sample import ConditionedSample
from calo4pqvae.annealed.outcome import Outcome, finish, read_outcome
from calo4pqvae.annealed.settings import AnnealerTrainingSettings
from calo4pqvae.annealer.beta.running_beta import RunningBeta
from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.calls.work_folder import alone_in
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.annealer.emulator.replay import restore_emulator
from calo4pqvae.annealer.emulator.settings import EmulatorMode
from calo4pqvae.annealer.learning.negative_phase import ChipPatch, NegativePhase, PhaseReads, PhaseRequest
from calo4pqvae.annealer.learning.read_learner import ReadLearner, programmable_range
from calo4pqvae.annealer.placing.tiles import moved_onto, tiles_on
from calo4pqvae.atomic import write_json
from calo4pqvae.config import Config
from calo4pqvae.errors import AnnealerError, CheckpointError, DataError
from calo4pqvae.models.qvae.latent_prior import LatentPrior, build_topology
from calo4pqvae.models.qvae.validation_gap import energy_gap
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.learning.diagnostics import DivergenceGuard
from calo4pqvae.seeds import stream
from calo4pqvae.workshop.bench import Reporter, silent
from calo4pqvae.workshop.checkpoints import load_module, prefixed, with_prefix
from calo4pqvae.workshop.data import resolve_file
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["prior_of", "train_through_annealer"]

_FORMAT = 1
_CHECKPOINT_EVERY = 10
_MOST_IDLE = 5  # phases in a row that serve the estimate of beta alone
_START_ERROR = 0.2  # relative, of the first guess of beta
_SMOOTHING = 0.01  # of the data means from which biases start


def train_through_annealer(
    source: Path,
    out: Path,
    annealer: Any,  # noqa: ANN401
    settings: AnnealerTrainingSettings | None = None,
    *,
    mode: EmulatorMode = "calibrated",
    limit: float | None = None,
    report: Reporter = silent,
) -> Outcome:
    """Trains a prior through an annealer; called again with the same folder it goes on.

    Args:
        source: Run directory with trained networks and exported posterior bits; its own prior, if it has one, is what
            the new one is compared with.
        out: Run directory of the new prior.
        annealer: As :func:`~calo4pqvae.annealer.calls.annealer.open_annealer` takes it: a name, or a dimod sampler; an
            emulator that has not been called yet.
        settings: How to train; the same again when a run is gone on with.
        mode: Of an emulator that is named.
        limit: Most access time in seconds, over all that was spent for this run.
        report: Told about progress.

    Raises:
        CheckpointError: If the source has no posterior bits, or ``out`` holds another training.
        AnnealerError: If the machine has no place on the chip, or a call fails for good; all reads are kept.
        SpendingLimitError: If a call would pass the limit.
        DivergenceError: If the machine's energies ran away.
        OutputError: If something cannot be written.
    """
    wanted = settings or AnnealerTrainingSettings()
    if RunDirectory(out).config_path.exists() and not _plan_path(out).exists():
        raise CheckpointError(f"{out} already holds a run of another kind: choose another folder")
    other = RunDirectory.open(source)
    config = _config_of(other, wanted)
    found = {name: other.load_tensors(name)[0] for name in ("autoencoder", "posterior")}
    if not resolve_file(config.data.train, "train")[0].is_file():
        raise DataError(f"the training showers {config.data.train} of {source} are gone; the calibration needs them")
    prior = prior_of(source)
    with alone_in(out / "annealer"):
        door = _open(annealer, wanted.seed, mode, out / "annealer" / "ledger.jsonl", limit)
        partition = 0 if prior.is_clamped else None
        tiles = tiles_on(prior.machine, door, prior.clamped) if wanted.is_tiled else ()
        placed = tiles[0].machine if tiles else moved_onto(prior.machine, door, prior.clamped)
        patch = ChipPatch.of(placed, partition, door, is_pruned=wanted.is_pruned)
        phase = NegativePhase(
            placed,
            partition,
            patch,
            protocol=wanted.protocol,
            correction=wanted.correction,
            polish_sweeps=wanted.polish_sweeps,
            seed=wanted.seed,
            tiles=tiles,
        )
        phase.check(wanted.conditions)
        sample = _sample(prior, found["posterior"], wanted)
        start = door.chip.beta if wanted.start_beta is None else wanted.start_beta
        run = _begin(other, out, config, wanted, door, patch)
        if run.provenance()["finished"]:
            return read_outcome(run)
        training = _Training(run, prior, found["posterior"], sample, phase, patch, door, wanted, start)
        training.go_on(report)

        def tell(what: str, done: int, total: int) -> None:
            report(what, done, total, {})

        return finish(run, other, prior, sample, door, phase, asdict(wanted), tell)


def prior_of(source: Path) -> LatentPrior:
    """A prior on the graph of a run, with nothing learned.

    Args:
        source: Run directory with exported posterior bits; its own prior need not be there.

    Raises:
        CheckpointError: If the run or its graph cannot be used.
        PriorError: If its configuration has no graph.
    """
    run = RunDirectory.open(source)
    return LatentPrior(run.config(), _topology_of(run, run.config()))


class _Training:
    """Where a training stands."""

    def __init__(
        self,
        run: RunDirectory,
        prior: LatentPrior,
        posterior: Mapping[str, Tensor],
        sample: ConditionedSample,
        phase: NegativePhase,
        patch: ChipPatch,
        annealer: Annealer,
        settings: AnnealerTrainingSettings,
        start_beta: float,
    ) -> None:
        self.run, self.history = run, RunDirectory(run.path / "annealer")
        self.prior, self.posterior, self.sample = prior, posterior, sample
        self.phase, self.patch, self.annealer, self.settings = phase, patch, annealer, settings
        held = torch.full((prior.machine.n_nodes - prior.n_bits,), 0.5)
        means = torch.cat([held, sample.bits.mean(dim=0)])
        std = run.config().prior.coupling_std
        prior.machine.initialise(means, std, stream(settings.seed, "couplings"), smoothing=_SMOOTHING)
        patch.prune(prior.machine)
        rates = (settings.learning_rate, settings.learning_rate_final)
        self.learner = ReadLearner(prior.machine, patch, sample.offsets, rates, settings.updates)
        self.number = self.n_idle = 0
        self.beta = start_beta
        is_tracked = settings.protocol == "tracked"
        self.running = RunningBeta.start(start_beta, _START_ERROR) if is_tracked else None
        self.guard = DivergenceGuard(limit=run.config().prior.max_gap)

    @property
    def reads_folder(self) -> Path:
        """Where the reads of all phases are."""
        return self.history.path / "phases"

    def go_on(self, report: Reporter) -> None:
        """Makes the steps that are missing."""
        self._restore()
        total = self.settings.updates
        while self.learner.n_done < total:
            numbers = self._phase()
            report("annealer", self.learner.n_done, total, numbers)
            if self.number % _CHECKPOINT_EVERY == 0 and self.learner.n_done < total:
                self._save()
        self._save()

    def _phase(self) -> dict[str, float]:
        settings = self.settings
        turn = self.sample.turn(self.number, settings.conditions)
        request = PhaseRequest(
            self.sample.rows[turn.groups].double().numpy(),
            [settings.reads * int(count) for count in turn.counts],
            turn.shares,
            self.beta,
            self.running,
        )
        reads = self.phase.read(self.annealer, self.reads_folder / f"{self.number:06d}", request, self.number)
        row = self._row(request, reads)
        if reads.effective_share >= settings.least_share:
            self.n_idle = 0
            limits = programmable_range(self.annealer.properties, reads.beta)
            done = self.learner.step(self.sample.data(turn), (reads.states, reads.weights, reads.condition), limits)
            row |= {key: value for key, value in asdict(done).items() if key != "at_limit"}
            row |= dict(zip(("couplers_at_limit", "fields_at_limit"), done.at_limit, strict=True))
        else:
            self._idle(reads)
        self.number += 1
        self.beta, self.running = reads.beta, reads.running
        self.history.append_metrics(row | {"update": self.learner.n_done})
        if "energy_data" in row and settings.validate_every and self.learner.n_done % settings.validate_every == 0:
            self._validate()
        return {"beta": reads.beta, "share": reads.effective_share}

    def _idle(self, reads: PhaseReads) -> None:
        self.n_idle += 1
        if self.n_idle >= _MOST_IDLE:
            raise AnnealerError(
                f"in {self.n_idle} phases in a row the reads stood for {100 * reads.effective_share:.2g} % of their "
                f"number or less, the last time at {float(reads.ratios.mean()):.3g} times the machine's inverse "
                "temperature; start from another beta, or polish and lower the least share"
            )

    def _row(self, request: PhaseRequest, reads: PhaseReads) -> dict[str, Any]:
        """What the history keeps of a phase."""
        polished = {}
        if reads.polish is not None:
            change, error = reads.polish.energy_change, reads.polish.energy_change_error
            polished = {"polish_energy_change": change, "polish_energy_change_error": error}
        return {
            "phase": self.number,
            "n_programmings": 1 if self.settings.is_tiled else len(request.rows),
            "n_reads": reads.n_reads,
            "programmed_beta": request.beta,
            "beta": reads.beta,
            "beta_error": reads.beta_error,
            "ratio": float(reads.ratios.mean()),
            "misfit": reads.misfit,
            "effective_share": reads.effective_share,
            **polished,
        }

    def _validate(self) -> None:
        """Looks at the validation energy gap, by Gibbs samples that enter nothing."""
        bits, energies = self.posterior["validation_bits"], self.posterior["validation_energies"]
        n_sweeps = self.run.config().generation.n_sweeps
        draws, seed = self.settings.validation_draws, self.settings.seed
        gap = energy_gap(self.prior, bits, energies, draws=draws, n_sweeps=n_sweeps, seed=seed)
        numbers = gap.to_dict()
        self.run.append_metrics({"stage": "prior", "update": self.learner.n_done, "phases": self.number, **numbers})
        self.guard.check(*(float(numbers[key]) for key in ("energy_data", "energy_model", "energy_spread")))

    def _save(self) -> None:
        tensors = prefixed("prior.", self.prior.state_dict())
        tensors |= {"counts": torch.tensor([self.number, self.n_idle, self.learner.n_done])}
        known = [self.beta]
        if self.running is not None:
            known += [self.running.log_value, self.running.variance, self.running.n_estimates]
        tensors["known"] = torch.tensor(known, dtype=torch.float64)
        rows = {"n_rows": str(len(self.run.metrics())), "n_history": str(len(self.history.metrics()))}
        self.run.save_tensors("checkpoint", tensors, stage="annealer", **rows)

    def _restore(self) -> None:
        """Takes up the checkpoint, and brings an emulator to where the last call left it."""
        if not self.run.has("checkpoint"):
            self.run.keep_metrics(sum(row["stage"] == "export" for row in self.run.metrics()))
            self.history.keep_metrics(0)
            self._save()
        try:
            saved, notes = self.run.load_tensors("checkpoint")
            load_module(self.prior, with_prefix(saved, "prior."))
            self.number, self.n_idle, self.learner.n_done = saved["counts"].tolist()
            self.beta, *rest = saved["known"].tolist()
            if self.running is not None:
                log_value, variance, n_estimates = rest
                self.running = RunningBeta(log_value, variance, self.running.drift, int(n_estimates))
            kept = int(notes["n_rows"]), int(notes["n_history"])
        except (KeyError, ValueError, CheckpointError) as error:
            raise CheckpointError(
                f"{self.run.tensor_path('checkpoint')} is damaged or not that of such a training: delete it, and all "
                "is worked out again from the reads"
            ) from error
        self.run.keep_metrics(kept[0])
        self.history.keep_metrics(kept[1])
        emulator = self.annealer.sampler
        if isinstance(emulator, Emulator) and self.annealer.ledger.calls:
            numbers = {int(path.stem.rpartition("-")[2]) for path in self.reads_folder.glob("*/reads/*.hdf5")}
            restore_emulator(emulator, self.annealer.ledger, self.phase.n_qubits, numbers, self.annealer.retry)


def _open(annealer: Any, seed: int, mode: EmulatorMode, ledger: Path, limit: float | None) -> Annealer:  # noqa: ANN401
    """The annealer with the ledger of the run; an emulator by name has the same seed whenever it is opened."""
    sampler = annealer
    if isinstance(annealer, str) and annealer.partition(":")[0] == "emulator":
        sampler = open_annealer(annealer, seed=seed, mode=mode).sampler
    return open_annealer(sampler, seed=seed, ledger=ledger, limit=limit)


def _sample(
    prior: LatentPrior, posterior: Mapping[str, Tensor], settings: AnnealerTrainingSettings
) -> ConditionedSample:
    if posterior["bits"].shape[1] != prior.n_bits:
        raise CheckpointError(
            f"the posterior states have {posterior['bits'].shape[1]} bits, the prior of the configuration "
            f"{prior.n_bits}: restore the run or train it again"
        )
    return ConditionedSample(
        prior,
        posterior["bits"],
        posterior["energies"],
        n_events=settings.events,
        energy_shift=settings.energy_shift,
        seed=settings.seed,
    )


def _config_of(source: RunDirectory, settings: AnnealerTrainingSettings) -> Config:
    """The configuration of the new run: that of the source, with what is true of the new prior."""
    return source.config().replace(
        {
            "training.mode": "prior",
            "training.start_from": str(source.path),
            "prior.updates": settings.updates,
            "prior.learning_rate": settings.learning_rate,
            "prior.learning_rate_final": settings.learning_rate_final,
        }
    )


def _topology_of(source: RunDirectory, config: Config) -> Topology:
    """Graph of the source's own prior, or the one that its configuration asks for."""
    if not source.has("prior"):
        return build_topology(config)
    stored = with_prefix(source.load_tensors("prior")[0], "graph.")
    try:
        return Topology.from_arrays({name: tensor.numpy() for name, tensor in stored.items()})
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"the graph in {source.tensor_path('prior')} cannot be used: restore it or train again"
        ) from error


def _begin(
    source: RunDirectory,
    out: Path,
    config: Config,
    settings: AnnealerTrainingSettings,
    annealer: Annealer,
    patch: ChipPatch,
) -> RunDirectory:
    """The run directory, new or one that is gone on with.

    Raises:
        CheckpointError: If another training stands there.
    """
    path = _plan_path(out)
    posterior = hashlib.sha256(source.tensor_path("posterior").read_bytes()).hexdigest()
    chip = {key: getattr(annealer.sampler, key, None) for key in ("mode", "seed")}
    plan = {
        "format": _FORMAT,
        "settings": asdict(settings),
        "posterior": posterior,
        "annealer": {"name": annealer.name, "emulated": annealer.is_emulated, **chip},
        "gone": {"bits": patch.lonely.tolist(), "couplers": patch.dead_couplers.tolist()},
    }
    if path.is_file():
        _same_plan(path, plan)
        if RunDirectory(out).provenance():  # written last: the beginning is whole
            return RunDirectory.open(out)
    write_json(path, plan)  # first: it makes the folder a training of this kind
    run = RunDirectory.create(out, config, replace=True)
    for name in ("autoencoder", "posterior", "split"):
        if source.has(name):
            run.save_tensors(name, source.load_tensors(name)[0])
    for row in source.metrics():
        if row["stage"] == "export":
            run.append_metrics(row)
    run.write_provenance(source.provenance() | {"finished": False})
    return run


def _plan_path(out: Path) -> Path:
    return out / "annealer" / "settings.json"


def _same_plan(path: Path, plan: Mapping[str, Any]) -> None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{section}.{key} was {stored[section][key]!r} and is {value!r}"
            for section in ("settings", "annealer", "gone")
            for key, value in plan[section].items()
            if stored[section][key] != value
        ]
        is_other = stored["format"] != plan["format"] or stored["posterior"] != plan["posterior"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}): restore it") from error
    if changed or is_other:
        reason = "; ".join(changed[:3]) or "it learned other posterior bits"
        raise CheckpointError(
            f"{path.parent.parent} holds another training ({reason}): choose another folder, or go on with its settings"
        )
