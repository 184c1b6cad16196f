"""The commands ``calo4pqvae annealer``: parsing and messages. The work is done by the library."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calo4pqvae.cli.choices import AnnealerMode, Correction, LearningProtocol, listed
from calo4pqvae.cli.terminal import bars, console, print_table
from calo4pqvae.errors import ConfigError

if TYPE_CHECKING:
    from calo4pqvae.annealed.machine import ChipMachine
    from calo4pqvae.annealer.calls.annealer import Annealer

__all__ = ["annealer_app"]

annealer_app = typer.Typer(
    no_args_is_help=True,
    help="Annealers, emulated or live: what they are, their temperature, samples from them, and what that costs.",
)

_TYPICAL = 100  # requests among which a calibration chooses its conditions

RunArgument = Annotated[Path, typer.Argument(help="Run directory of a finished training.")]
SpecOption = Annotated[
    str | None,
    typer.Option(
        "--annealer",
        help="emulator:CHIP (then :SIZE, :whole), qpu or qpu:NAME; default: an emulator of the run's graph.",
    ),
]
ModeOption = Annotated[AnnealerMode, listed(AnnealerMode, "MODE", "Errors of an emulator")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed.")]
EnergiesOption = Annotated[str | None, typer.Option(help="Incident energies in MeV, as for generate.")]
PruneOption = Annotated[bool, typer.Option("--prune", help="Leave out what is gone from the chip, with a report.")]
LimitOption = Annotated[float | None, typer.Option(help="Most access time in seconds; no call is made beyond it.")]


@annealer_app.command("info")
def info(
    spec: Annotated[
        str | None, typer.Argument(help="emulator:CHIP (then :SIZE), qpu or qpu:NAME; default: all chips.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="Ledger file to sum up.")] = None,
) -> None:
    """Documented chips, or one annealer as it is today, or what a ledger says was spent."""
    if ledger is not None:
        _print_ledger(ledger)
    elif spec is None:
        _print_chips()
    else:
        _print_annealer(spec)


@annealer_app.command("calibrate")
def calibrate(
    run: RunArgument,
    spec: SpecOption = None,
    energies: EnergiesOption = None,
    reads: Annotated[int, typer.Option(help="Reads of a programming.")] = 100,
    start: Annotated[float | None, typer.Option(help="First guess of beta; default: that of the chip.")] = None,
    rounds: Annotated[int, typer.Option(help="Programmings, each divided by what the last one found.")] = 2,
    prune: PruneOption = False,
    mode: ModeOption = "calibrated",
    limit: LimitOption = None,
    ledger: Annotated[Path | None, typer.Option(help="Ledger file to go on with.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    seed: SeedOption = 1,
) -> None:
    """Effective inverse temperature of an annealer for the machine of a run, by pseudo-likelihood."""
    from calo4pqvae.annealed.machine import calibrate as calibrate_machine
    from calo4pqvae.annealed.machine import numbers_of, open_chip_machine
    from calo4pqvae.atomic import write_json

    machine = open_chip_machine(run)
    annealer = _open(spec, machine, seed, mode, limit, ledger)
    rows, _ = machine.requests(energies, _TYPICAL, seed)
    with bars() as shown:
        shown.show("calibrating", 0, rounds)
        found = calibrate_machine(
            machine, annealer, rows, n_reads=reads, start=start, n_rounds=rounds, is_pruned=prune, seed=seed
        )
        shown.show("calibrating", rounds, rounds)
    console.print(str(found), soft_wrap=True, highlight=False, markup=False)
    _say_spent(annealer)
    if out is not None:
        told = {"annealer": annealer.name, "graph_id": annealer.graph_id, "ledger": annealer.ledger.to_dict()}
        write_json(out, {"emulated": annealer.is_emulated, **told, "beta": numbers_of(found)})
        console.print(f"numbers: {out}", soft_wrap=True, highlight=False)


@annealer_app.command("sample")
def sample(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder of the samples; given again, work goes on there.")],
    n: Annotated[int | None, typer.Option("--n", "-n", help="Number of samples; default 1000.")] = None,
    energies: EnergiesOption = None,
    spec: SpecOption = None,
    beta: Annotated[
        float | None, typer.Option(help="What the machine is divided by; default: estimated first.")
    ] = None,
    reads: Annotated[int, typer.Option(help="Reads of a programming of that estimate.")] = 100,
    polish: Annotated[int, typer.Option(help="Sweeps of block Gibbs after the annealer.")] = 0,
    prune: PruneOption = False,
    mode: ModeOption = "calibrated",
    limit: LimitOption = None,
    seed: SeedOption = 1,
) -> None:
    """Draw samples of the machine of a run; an interrupted command goes on where it stood and loses no read."""
    from calo4pqvae.annealed.machine import open_chip_machine, sample_machine

    if polish < 0:
        raise ConfigError(f"--polish {polish} is too few: use at least 0")
    machine = open_chip_machine(run)
    annealer = _open(spec, machine, seed, mode, limit, out / "ledger.jsonl")
    rows, incident = machine.requests(energies, n, seed)
    with bars() as shown:
        drawn = sample_machine(
            machine,
            annealer,
            out,
            rows,
            incident,
            beta=beta,
            calibration_reads=reads,
            is_pruned=prune,
            polish_sweeps=polish,
            seed=seed,
            progress=lambda done, total: shown.show("reads", done, total),
        )
    if drawn.report["left_out"]:
        console.print(f"[yellow]pruned:[/] {drawn.report['left_out']}", soft_wrap=True, highlight=False)
    console.print(
        f"{drawn.bits.n_states} samples of {drawn.bits.n_bits} bits in {out / 'bits.hdf5'}, "
        f"{drawn.report['n_conditions']} conditions, seed {seed}",
        soft_wrap=True,
        highlight=False,
    )
    divided = drawn.report["programmed_beta"]
    console.print(f"divided by {divided:.4f}; the reads say: {drawn.estimate}", soft_wrap=True, highlight=False)
    _say_spent(annealer)


@annealer_app.command("train")
def train(
    run: Annotated[Path, typer.Argument(help="Run directory with trained networks and exported posterior bits.")],
    out: Annotated[Path, typer.Option(help="Run directory of the new prior; given again, the training goes on.")],
    spec: SpecOption = None,
    updates: Annotated[int, typer.Option(help="Steps of the machine.")] = 250,
    conditions: Annotated[int, typer.Option(help="Conditions of a step, each a programming without --tiled.")] = 4,
    reads: Annotated[int, typer.Option(help="Reads of a condition.")] = 100,
    events: Annotated[int | None, typer.Option(help="Posterior states to learn from; default: all.")] = None,
    shift: Annotated[float, typer.Option(help="Largest relative shift of energies by binning.")] = 0.0,
    protocol: Annotated[LearningProtocol, typer.Option(help="How beta is known.")] = "same-reads",
    correction: Annotated[Correction, typer.Option(help="Of the reads' temperature.")] = "importance",
    polish: Annotated[int, typer.Option(help="Sweeps of block Gibbs of a polish.")] = 5,
    rate: Annotated[float, typer.Option(help="First step size; it falls to a sixteenth.")] = 0.8,
    beta: Annotated[float | None, typer.Option(help="First guess of beta; default: that of the chip.")] = None,
    tiled: Annotated[
        bool, typer.Option("--tiled", help="All conditions of a step in one programming, on copies of the machine.")
    ] = False,
    prune: PruneOption = False,
    mode: ModeOption = "calibrated",
    limit: LimitOption = None,
    seed: SeedOption = 1,
) -> None:
    """Train the prior of a run through an annealer; an interrupted training goes on and loses no read."""
    from calo4pqvae.annealed.machine import emulator_of
    from calo4pqvae.annealed.settings import AnnealerTrainingSettings
    from calo4pqvae.annealed.training import prior_of, train_through_annealer

    settings = AnnealerTrainingSettings(
        updates=updates,
        conditions=conditions,
        reads=reads,
        events=events,
        energy_shift=shift,
        protocol=protocol,
        correction=correction,
        polish_sweeps=polish,
        learning_rate=rate,
        learning_rate_final=rate / 16,
        start_beta=beta,
        is_tiled=tiled,
        is_pruned=prune,
        seed=seed,
    )
    name = emulator_of(prior_of(run).machine, is_full=tiled) if spec is None else spec
    with bars() as shown:
        outcome = train_through_annealer(
            run,
            out,
            name,
            settings,
            mode=mode,
            limit=limit,
            report=lambda stage, done, total, _numbers: shown.show(stage, done, total),
        )
    _print_outcome(outcome.numbers, out)
    console.print(str(outcome), soft_wrap=True, highlight=False, markup=False)


@annealer_app.command("plan")
def plan(
    run: Annotated[Path | None, typer.Argument(help="Run directory whose machine is planned for.")] = None,
    qubits: Annotated[int | None, typer.Option(help="Qubits of the model, without a run.")] = None,
    samples: Annotated[int, typer.Option(help="Samples of an epoch.")] = 100_000,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 200,
    conditions: Annotated[int | None, typer.Option(help="Distinct energies of an epoch; default: all.")] = None,
    bins: Annotated[int, typer.Option(help="Bins of energy.")] = 100,
    prior_epochs: Annotated[int, typer.Option(help="Epochs of the prior alone.")] = 50,
    prior_samples: Annotated[int, typer.Option(help="Samples of an epoch of the prior alone.")] = 20_000,
    steps: Annotated[
        tuple[int, int, int], typer.Option(help="Steps, programmings a step and reads of each of annealer train.")
    ] = (250, 4, 100),
    chip: Annotated[str, typer.Option(help="Chip of the way out; the table has all of them.")] = "advantage2",
    anneal: Annotated[float, typer.Option(help="Anneal in microseconds.")] = 20.0,
    price: Annotated[float | None, typer.Option(help="Price of an hour of access time.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Time and cost of training or sampling on annealers, and what each way out makes of it."""
    from calo4pqvae.annealer.chip.table import CHIPS
    from calo4pqvae.annealer.chip.table import chip as chip_of
    from calo4pqvae.annealer.planner import Job, plain_hours, plan_calls, plan_table, ways_out
    from calo4pqvae.atomic import write_json

    job = Job(_qubits(run, qubits), samples, epochs, samples if conditions is None else conditions)
    options: dict[str, Any] = {"anneal_us": anneal, "price_per_hour": price}
    ways_of: dict[str, Any] = {"n_bins": bins, "prior_epochs": prior_epochs, "prior_samples": prior_samples}
    entry = chip_of(chip)
    ways = {one.name: ways_out(job, one, **ways_of, **options) for one in CHIPS.values()}
    told = f"{steps[0]:,} steps of {steps[1]:,} x {steps[2]:,} reads"
    for one in CHIPS.values():
        calls = [steps[2]] * (steps[0] * steps[1])
        ways[one.name].append(plan_calls(calls, job.n_qubits, one, step=told, **options))
    hours = plain_hours(0.020, samples, epochs)
    console.print(f"20 ms x {samples:,} samples x {epochs:,} epochs = {hours:,.1f} h", highlight=False)
    title = (
        f"{job.n_qubits} qubits on {entry.name}, each step on top of the last; wall time with 0.22 s a call (assumed)"
    )
    print_table(title, [_row(row) for row in ways[entry.name]])
    print_table(
        "access time of all chips in hours",
        [
            {"step": ways[entry.name][number].step}
            | {
                name: f"{rows[number].access_hours:,.4g}" if rows[number].fits else "too few qubits"
                for name, rows in ways.items()
            }
            for number in range(len(ways[entry.name]))
        ],
    )
    protocols = plan_table(job, **options)
    chosen = [row for row in protocols if row.chip == entry.name]
    print_table(f"protocols on {entry.name}", [_row(row) | {"step": row.protocol} for row in chosen])
    if out is not None:
        rows = {"ways_out": [row.to_dict() for one in ways.values() for row in one]}
        rows["protocols"] = [row.to_dict() for row in protocols]
        write_json(out, {"job": vars(job), "plain_hours_at_20_ms": hours, **rows})
        console.print(f"numbers: {out}", soft_wrap=True, highlight=False)


@annealer_app.command("study")
def study(
    out: Annotated[Path, typer.Option(help="Folder for the results of studies.")] = Path("studies"),
    quick: Annotated[bool, typer.Option("--quick", help="The form that takes minutes.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; calo4pqvae study --settings shows them."),
    ] = None,
    seed: SeedOption = 1,
) -> None:
    """Compare the protocols on emulated chips: accuracy and access time (the study annealer-protocols)."""
    from calo4pqvae.studies.annealer_protocols.study import STUDY
    from calo4pqvae.studies.frame.index import write_index

    chosen = STUDY.configure(quick=quick, overrides=settings or [])
    with bars() as shown:
        result = STUDY.run(chosen, out, seed, shown.show)
    for paragraph in (f"{STUDY.title}, seed {seed}, {result.runtime_s:.0f} s", *result.text):
        console.print(paragraph, highlight=False, soft_wrap=True, markup=False)
    console.print(f"all studies in this folder: {write_index(out)}", highlight=False, soft_wrap=True, markup=False)


def _open(
    spec: str | None,
    machine: "ChipMachine",
    seed: int,
    mode: AnnealerMode,
    limit: float | None,
    ledger: Path | None,
) -> "Annealer":
    from calo4pqvae.annealed.machine import emulator_of
    from calo4pqvae.annealer.calls.annealer import open_annealer

    name = emulator_of(machine.machine) if spec is None else spec
    return open_annealer(name, seed=seed, mode=mode, limit=limit, ledger=ledger)


def _qubits(run: Path | None, qubits: int | None) -> int:
    if (run is None) == (qubits is None):
        raise ConfigError("say for which model: a run directory, or --qubits NUMBER")
    if run is None:
        return int(qubits or 0)
    from calo4pqvae.annealed.machine import open_chip_machine

    return int(open_chip_machine(run).machine.n_nodes)


def _say_spent(annealer: Any) -> None:  # noqa: ANN401
    spent = annealer.ledger.totals
    kind = "emulated access time" if annealer.is_emulated else "access time"
    console.print(
        f"{annealer.name}: {spent.programmings} programmings, {spent.reads} reads, "
        f"{spent.access_seconds:.4g} s of {kind}, {spent.faults} faults",
        soft_wrap=True,
        highlight=False,
    )


def _print_outcome(numbers: Any, out: Path) -> None:  # noqa: ANN401
    """What a training through an annealer cost, here and on the chips of the table."""
    kind = "emulated access time" if numbers["emulated"] else "access time"
    console.print(
        f"{numbers['annealer']}: {numbers['programmings']} programmings, {numbers['reads']} reads, "
        f"{numbers['access_seconds']:.4g} s of {kind}, {numbers['faults']} faults",
        soft_wrap=True,
        highlight=False,
    )
    rows = [
        {
            "chip": row["chip"],
            "programmings": f"{row['programmings']:,}" if row["fits"] else "too few qubits",
            "reads": f"{row['reads']:,}" if row["fits"] else "",
            "access (s)": f"{row['access_seconds']:.1f}" if row["fits"] else "",
        }
        for row in numbers["projection"]
    ]
    print_table(f"the same calls of {numbers['qubits']} qubits on the chips of the table", rows)
    hours = numbers["plain_hours"]
    console.print(f"20 ms x 100,000 samples x 200 epochs would be {hours:.1f} h", soft_wrap=True, highlight=False)
    console.print(f"run: {out}, report: {out / 'annealer' / 'report.html'}", soft_wrap=True, highlight=False)


def _print_chips() -> None:
    from calo4pqvae.annealer.chip.table import CHIPS, access_time

    rows = [
        {
            "chip": entry.name,
            "graph": f"{entry.family} {entry.m}",
            "qubits": f"{entry.n_qubits:,}",
            "couplers": f"{entry.n_couplers:,}",
            "beta": f"{entry.beta:.2f}",
            "programming": f"{entry.programming_us / 1000:.1f} ms",
            "1 read": f"{access_time(entry, 1).seconds * 1e3:.1f} ms",
            "a read of 1000": f"{access_time(entry, 1000).per_read_us / 1000:.3f} ms",
            "flux": entry.flux_source,
        }
        for entry in CHIPS.values()
    ]
    print_table("documented chips; times for all qubits, anneals of 20 microseconds", rows)


def _print_annealer(spec: str) -> None:
    from calo4pqvae.annealer.calls.annealer import open_annealer
    from calo4pqvae.annealer.chip.limits import checked_limits

    annealer = open_annealer(spec, seed=0)
    shown = {
        "name": annealer.name,
        "emulated": "yes" if annealer.is_emulated else "no",
        "working graph": annealer.graph_id,
        "qubits": f"{len(annealer.nodelist):,}",
        "couplers": f"{len(annealer.edgelist):,}",
        "documented beta": f"{annealer.chip.beta:.2f}" if annealer.has_chip else "unknown",
        "limits that are checked": ", ".join(checked_limits(annealer.properties)),
    }
    for key, value in shown.items():
        console.print(f"{key}: {value}", soft_wrap=True, highlight=False, markup=False)


def _print_ledger(path: Path) -> None:
    from calo4pqvae.annealer.calls.ledger import read_ledger

    for key, value in read_ledger(path).to_dict().items():
        console.print(f"{key}: {value}", soft_wrap=True, highlight=False, markup=False)


def _row(row: Any) -> dict[str, str]:  # noqa: ANN401
    if not row.fits:
        return {"step": row.step, "programmings": "too few qubits"}
    columns = {
        "step": row.step,
        "programmings": f"{row.programmings:,}",
        "reads": f"{row.reads:,}",
        "access (h)": f"{row.access_hours:,.4g}",
        "wall (h)": f"{row.wall_seconds / 3600:,.4g}",
        "a sample (ms)": f"{row.seconds_per_sample * 1e3:.4g}",
    }
    return columns if row.price is None else columns | {"price": f"{row.price:,.2f}"}
