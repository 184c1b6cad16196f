"""The command line: parsing, progress bars and messages. The work is done by the library.

Bad input gives one line on standard error and exit code 2; an interruption says how to go on and gives 130.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from calo4pqvae import __version__
from calo4pqvae.cli.annealer import annealer_app
from calo4pqvae.cli.choices import AnnealerMode, ConditionMethod, DeviceOption, Protocol, Sampler, SlipPolicy, listed
from calo4pqvae.cli.generate import generate_annealed, given_words, wants_annealer
from calo4pqvae.cli.prior import prior_app
from calo4pqvae.cli.study import study
from calo4pqvae.cli.terminal import bars as progress_bars
from calo4pqvae.cli.terminal import complaints, console, print_mixing
from calo4pqvae.errors import CaloError

__all__ = ["main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Calorimeter showers from a conditional VAE with a four-partite Boltzmann-machine prior.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at, check and fetch shower files.")
config_app = typer.Typer(no_args_is_help=True, help="Presets and settings.")
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
app.add_typer(prior_app, name="prior")
app.add_typer(annealer_app, name="annealer")
app.command("study")(study)

_INTERRUPTED = 130  # the exit code that typer makes of Ctrl-C
_UsageError: Any = typer.BadParameter.__mro__[1]  # of a command line that cannot be parsed; typer gives it no name

SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting.")]
DatasetOption = Annotated[str, typer.Option("--dataset", help="Built-in geometry or binning XML file.")]
ReferenceArgument = Annotated[str, typer.Argument(help="Geant4 showers that the model never saw; or 'bundled'.")]
ReportOption = Annotated[Path, typer.Option(help="Folder of the report.")]
EvaluationSeedOption = Annotated[int, typer.Option(min=0, help="Seed of splits, bootstraps and classifiers.")]
MetricsOption = Annotated[
    str,
    typer.Option(
        help="default, all, or some, with commas and no blanks, of distances, separation, wasserstein, prdc, "
        "correlations, calo4pqvae-226."
    ),
]
ClassifiersOption = Annotated[
    str, typer.Option(help="off, quick, plain or full networks, hard (boosted trees), or two such as quick,hard.")
]
OfficialOption = Annotated[bool, typer.Option("--official", help="The reference is the data set's official file.")]


def main() -> None:
    """Entry point of the ``calo4pqvae`` command."""
    try:
        code = app(prog_name="calo4pqvae", standalone_mode=False)
    except CaloError as error:
        _complain(str(error))
        code = 2
    except _UsageError as error:
        told = error.format_message()
        if told and "\n" not in told:  # otherwise it is the help text, for a command without arguments
            _complain(f"{told} (--help tells more)")
        code = 2
    if code == _INTERRUPTED:
        complaints.print("interrupted; finished checkpoints and files are kept", soft_wrap=True)
    sys.exit(code)


def _complain(sentence: str) -> None:
    line = " ".join(sentence.split())
    complaints.print(f"[bold red]error:[/] {escape(line)}", soft_wrap=True, highlight=False, emoji=False)


def _version(asked: bool) -> None:
    if asked:
        console.print(f"calo4pqvae {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the whole command."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/demo"),
    settings: SetOption = None,
    device: DeviceOption = "auto",
    overwrite: Annotated[bool, typer.Option(help="Start anew where another run stands.")] = False,
) -> None:
    """The main job on bundled data: train, generate, compare with held-out Geant4, write a report.

    A demo that was interrupted goes on where it stood; a finished one with the same settings is reported anew.
    """
    from calo4pqvae.config import load_config

    config = load_config("demo", settings or [])
    resume = not overwrite and _can_resume(out, config.to_toml())
    if resume:
        console.print(f"going on with the run in {out}")
    _train(config, out, resume=resume, overwrite=overwrite)
    _report(out, config.evaluation.n_generated, config.evaluation.seed, device)


@app.command()
def train(
    out: Annotated[Path | None, typer.Option(help="Run directory of a new run.")] = None,
    config: Annotated[str | None, typer.Option(help="Preset or TOML file; default: the defaults.")] = None,
    settings: SetOption = None,
    resume: Annotated[Path | None, typer.Option(help="Run directory to go on with.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Start anew where a run stands.")] = False,
) -> None:
    """Train a model; training.mode says which parts (staged, joint, autoencoder, prior)."""
    from calo4pqvae.config import load_config
    from calo4pqvae.errors import ConfigError
    from calo4pqvae.workshop.rundir import RunDirectory

    if resume is not None:
        if out is not None and out != resume:
            raise ConfigError("--resume names the run to go on with: leave out --out")
        base = RunDirectory.open(resume).config()
        resolved = load_config(config, settings or [], base=None if config else base)
        _train(resolved, resume, resume=True, overwrite=False)
        return
    if out is None:
        raise ConfigError("say where the run shall be: --out FOLDER")
    _train(load_config(config, settings or []), out, resume=False, overwrite=overwrite)


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[Path, typer.Option(help="Shower file to write.")],
    energies: Annotated[str, typer.Option(help="LOW:HIGH:log, LOW:HIGH:lin, a list, or a file; in MeV.")],
    n: Annotated[int | None, typer.Option("--n", "-n", help="Number of showers (-n under torchrun).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed; default: the run's generation.seed.")] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="Source of the showers, of the model's own: boltzmann or independent (the baseline without "
            "couplings) of a qvae; default: the first."
        ),
    ] = None,
    sweeps: Annotated[int | None, typer.Option(help="Block Gibbs sweeps.")] = None,
    device: DeviceOption = "auto",
    sampler: Annotated[Sampler, typer.Option(help="What draws the bits; annealer has the options below.")] = "gibbs",
    annealer: Annotated[
        str | None, typer.Option(help="emulator:CHIP (then :SIZE, :whole), qpu or qpu:NAME; default: an emulator.")
    ] = None,
    mode: Annotated[
        AnnealerMode | None, listed(AnnealerMode, "MODE", "Errors of an emulator, default calibrated")
    ] = None,
    condition: Annotated[
        ConditionMethod | None, typer.Option(help="How the energy reaches the chip; default: fold.")
    ] = None,
    protocol: Annotated[Protocol | None, listed(Protocol, "PROTOCOL", "How beta is known, default same-reads")] = None,
    slips: Annotated[
        SlipPolicy | None, typer.Option(help="What becomes of reads whose condition slipped; default: reject.")
    ] = None,
    bins: Annotated[float | None, typer.Option(help="Largest relative shift of energies put in bins.")] = None,
    polish: Annotated[int | None, typer.Option(help="Gibbs sweeps after the annealer; default 10, 0 for none.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Leave out what is gone from the chip.")] = False,
    limit: Annotated[float | None, typer.Option(help="Most access time in seconds.")] = None,
    reads_per_call: Annotated[
        int | None,
        typer.Option(help="Most showers of one condition and programming; 0 for as many as the chip takes."),
    ] = None,
) -> None:
    """Generate showers at requested incident energies into a CaloChallenge file."""
    from calo4pqvae.errors import ConfigError
    from calo4pqvae.runs.generation import generate as generate_showers
    from calo4pqvae.runs.generation import load_model, parse_energies

    words = given_words(annealer, mode, condition, protocol, slips, bins, polish, prune, limit, reads_per_call)
    if wants_annealer(sampler, words, prior not in (None, "boltzmann") or sweeps is not None or device == "cuda"):
        generate_annealed(run, out, energies, n, seed, words)
        return
    if sweeps is not None and sweeps < 1:
        raise ConfigError(f"--sweeps {sweeps} is too few: use at least 1")
    changes = {} if sweeps is None else {"generation.n_sweeps": sweeps}
    model = load_model(run, device, changes)
    chosen = model.config.generation.seed if seed is None else seed
    limits = (model.config.data.energy_min_mev, model.config.data.energy_max_mev)
    incident = parse_energies(energies, n, chosen, limits)
    with progress_bars() as bars:
        rate = generate_showers(
            model,
            incident,
            out,
            seed=chosen,
            source=prior,
            progress=lambda done, total: bars.show("generating", done, total),
        )
    console.print(f"{len(incident)} showers in {out}, {rate:.0f} showers/s, seed {chosen}", soft_wrap=True)


@app.command()
def reconstruct(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    showers: Annotated[Path, typer.Argument(help="Shower file to encode and decode.")],
    out: Annotated[Path, typer.Option(help="Shower file to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 1,
    device: DeviceOption = "auto",
) -> None:
    """Encode showers to posterior bits and decode them again."""
    from calo4pqvae.runs.generation import load_model
    from calo4pqvae.runs.generation import reconstruct as reconstruct_showers

    model = load_model(run, device)
    with progress_bars() as bars:
        rate = reconstruct_showers(
            model, showers, out, seed=seed, progress=lambda done, total: bars.show("reconstructing", done, total)
        )
    console.print(f"reconstructed showers in {out}, {rate:.0f} showers/s", soft_wrap=True)


@app.command()
def evaluate(
    reference: ReferenceArgument,
    generated: Annotated[list[Path], typer.Argument(help="Files of generated showers.")],
    out: ReportOption,
    dataset: DatasetOption = "ds2",
    seed: EvaluationSeedOption = 1,
    metrics: MetricsOption = "default",
    classifiers: ClassifiersOption = "off",
    official: OfficialOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Compare shower files with a Geant4 file and write report.html and metrics.json."""
    _evaluate(reference, generated, out, dataset, seed, (metrics, classifiers, official, device))


@app.command()
def compare(
    models: Annotated[list[Path], typer.Argument(help="Run directories with a report, or files of showers.")],
    reference: Annotated[str, typer.Option(help="Geant4 showers that no model saw; or 'bundled'.")],
    out: ReportOption,
    dataset: DatasetOption = "ds2",
    seed: EvaluationSeedOption = 1,
    metrics: MetricsOption = "default",
    classifiers: ClassifiersOption = "off",
    official: OfficialOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Set several models beside each other and beside published ones, in one report."""
    _evaluate(reference, models, out, dataset, seed, (metrics, classifiers, official, device))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run directory of a finished training.")],
    n: Annotated[int | None, typer.Option("--n", "-n", help="Showers generated with each prior.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Generate with a run, compare with its held-out showers, write the report into the run."""
    from calo4pqvae.workshop.rundir import RunDirectory

    config = RunDirectory.open(run).config()
    wanted = config.evaluation.n_generated if n is None else n
    _report(run, wanted, config.evaluation.seed if seed is None else seed, device)


@data_app.command("info")
def data_info(
    file: Annotated[Path, typer.Argument(help="Shower file.")],
    dataset: Annotated[str | None, typer.Option("--dataset", help="Geometry to hold the file against.")] = None,
) -> None:
    """Say what a shower file holds."""
    from calo4pqvae.showers.files import describe_file
    from calo4pqvae.showers.geometry import geometry

    _print_mapping(describe_file(file, geometry(dataset) if dataset else None))


@data_app.command("validate")
def data_validate(
    file: Annotated[Path, typer.Argument(help="Shower file.")],
    dataset: DatasetOption = "ds2",
) -> None:
    """Check every shower of a file; exit code 1 if some are bad."""
    from calo4pqvae.showers.geometry import geometry
    from calo4pqvae.showers.validation import validate_file

    found = validate_file(file, geometry(dataset))
    _print_mapping(found.to_dict())
    console.print("clean" if found.is_clean else f"{found.n_bad} bad showers (train with data.drop_bad = true)")
    if not found.is_clean:
        raise typer.Exit(1)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="ds1-photons, ds1-pions, ds2 or ds3.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("data"),
    base_url: Annotated[str | None, typer.Option(help="Another server with the same interface.")] = None,
) -> None:
    """Fetch an official CaloChallenge record by its DOI; a broken download goes on where it stopped."""
    from calo4pqvae.showers.fetch import ZENODO, fetch

    with progress_bars() as bars:
        paths = fetch(name, out, base_url or ZENODO, progress=lambda *step: bars.show(*step))
    for path in paths:
        console.print(str(path), soft_wrap=True)


@config_app.command("list")
def config_list() -> None:
    """Names of the presets."""
    from calo4pqvae.config import preset_names

    for name in preset_names():
        console.print(name)


@config_app.command("show")
def config_show(
    config: Annotated[str | None, typer.Argument(help="Preset or TOML file.")] = None, settings: SetOption = None
) -> None:
    """Print the resolved settings as TOML."""
    from calo4pqvae.config import load_config

    sys.stdout.write(load_config(config, settings or []).to_toml())


def _train(config: Any, out: Path, *, resume: bool, overwrite: bool) -> None:  # noqa: ANN401
    from calo4pqvae.runs.training import train as train_model

    console.print(f"training into {out}; it may be interrupted: calo4pqvae train --resume {out}", soft_wrap=True)
    with progress_bars() as bars:

        def tell(stage: str, done: int, total: int, numbers: Any) -> None:  # noqa: ANN401
            bars.show(stage, done, total, "  ".join(f"{name} {value:.1f}" for name, value in numbers.items()))

        run = train_model(config, out, resume=resume, overwrite=overwrite, report=tell)
    console.print(f"trained model in {run.path}", soft_wrap=True)
    print_mixing(run.metrics())


def _evaluate(
    reference: str,
    models: list[Path],
    out: Path,
    dataset: str,
    seed: int,
    asked: tuple[str, str, bool, str],
) -> None:
    from calo4pqvae.evaluation.compare import evaluate_files
    from calo4pqvae.evaluation.pages.report import ReportExtras
    from calo4pqvae.evaluation.settings import ALL_GROUPS, DEFAULT_GROUPS, RefereeSettings
    from calo4pqvae.runs.report import generated_files
    from calo4pqvae.showers.geometry import geometry
    from calo4pqvae.workshop.data import resolve_file

    metrics, classifiers, official, device = asked
    groups = {"default": DEFAULT_GROUPS, "all": ALL_GROUPS}.get(metrics, tuple(metrics.split(",")))
    settings = RefereeSettings(
        groups=groups,
        classifiers=classifiers,
        seed=seed,
        is_official=official,
        device=device,
    )
    words = [Path(word).name if os.sep in word else word for word in sys.argv[1:]]  # no place of a machine is recorded
    path, origin = resolve_file(reference, "heldout")
    with progress_bars() as bars:
        result = evaluate_files(
            path,
            generated_files(models),
            geometry(dataset),
            out,
            extras=ReportExtras(data_note=origin) if reference == "bundled" else None,
            settings=settings,
            context={"command": shlex.join(["calo4pqvae", *words])},
            progress=lambda *step: bars.show(*step),
        )
    _print_result(result, None)


def _report(run: Path, n_generated: int, seed: int, device: str) -> None:
    from calo4pqvae.runs.report import report_run

    with progress_bars() as bars:
        result = report_run(run, n_generated=n_generated, seed=seed, device=device, progress=bars.show)
    _print_result(result.evaluation, result.information)
    console.print(f"generation: {result.showers_per_second:.0f} showers/s", soft_wrap=True)


def _print_result(result: Any, information: tuple[float, float] | None) -> None:  # noqa: ANN401
    from calo4pqvae.cli.summary import print_summary

    print_summary(console, result, information)


def _print_mapping(content: Any) -> None:  # noqa: ANN401
    for key, value in content.items():
        console.print(f"{key}: {value}", soft_wrap=True, highlight=False, markup=False)


def _can_resume(out: Path, toml: str) -> bool:
    """Whether a run with these very settings stands there."""
    from calo4pqvae.workshop.rundir import RunDirectory

    run = RunDirectory(out)
    return run.config_path.is_file() and run.config().to_toml() == toml
