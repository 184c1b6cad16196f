"""The commands ``calo4pqvae prior``: parsing and messages. The work is done by the library."""

from pathlib import Path
from typing import Annotated, Any

import typer

from calo4pqvae.cli.choices import DeviceOption, ImageSet, MachineSampler, Start, listed
from calo4pqvae.cli.terminal import bars, console, print_mixing, print_table
from calo4pqvae.errors import ConfigError

__all__ = ["prior_app"]

prior_app = typer.Typer(
    no_args_is_help=True, help="Boltzmann machines on their own: train on files of bits, sample, diagnose, judge."
)

SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting.")]
RunArgument = Annotated[Path, typer.Argument(help="Run directory of a finished training.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed.")]
StartOption = Annotated[Start, typer.Option(help="Where chains begin; chains are those of the training.")]


@prior_app.command("fetch")
def fetch(
    name: Annotated[ImageSet, typer.Argument(help="The set of images.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    base_url: Annotated[str | None, typer.Option(help="Another server with the same files.")] = None,
) -> None:
    """Fetch the full set of images; a broken download goes on where it stopped."""
    from calo4pqvae.prior.bits.mnist import fetch_images

    with bars() as shown:
        paths = fetch_images(name, out, base_url, progress=lambda *step: shown.show(*step))
    for path in paths:
        console.print(str(path), soft_wrap=True)


@prior_app.command("train")
def train(
    out: Annotated[Path | None, typer.Option(help="Run directory of a new run.")] = None,
    config: Annotated[str | None, typer.Option(help="Preset (quick, mnist, fashion-mnist) or TOML file.")] = None,
    settings: SetOption = None,
    resume: Annotated[Path | None, typer.Option(help="Run directory to go on with.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Start anew where a run stands.")] = False,
) -> None:
    """Train a machine on a file of bits."""
    from calo4pqvae.standalone.runs import stored_config
    from calo4pqvae.standalone.settings import load_prior_config
    from calo4pqvae.standalone.training import train_prior_alone
    from calo4pqvae.workshop.rundir import RunDirectory

    if resume is not None:
        if out is not None and out != resume:
            raise ConfigError("--resume names the run to go on with: leave out --out")
        if config is not None or settings:
            raise ConfigError("a run is resumed with its own settings: leave out --config and --set")
    folder = resume or out
    if folder is None:
        raise ConfigError("say where the run shall be: --out FOLDER")
    chosen = load_prior_config(config, settings or []) if resume is None else stored_config(folder)
    hints = [f"training into {folder}; it may be interrupted: prior train --resume {folder}"]
    with bars() as shown:

        def tell(done: int, total: int, numbers: Any) -> None:  # noqa: ANN401
            while hints:  # there is something to go on with only from the first step on
                console.print(hints.pop(), soft_wrap=True)
            shown.show("machine", done, total, "  ".join(f"{name} {value:.1f}" for name, value in numbers.items()))

        run = train_prior_alone(chosen, folder, resume=resume is not None, overwrite=overwrite, progress=tell)
    console.print(f"trained machine in {run.path}", soft_wrap=True)
    print_mixing(RunDirectory(run.path).metrics())


@prior_app.command("sample")
def sample(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="File of bits to write (HDF5).")],
    n: Annotated[int | None, typer.Option("--n", "-n", help="Number of states; default 1000.")] = None,
    sweeps: Annotated[int | None, typer.Option(help="Sweeps; default 1000, or the shower run's own.")] = None,
    seed: SeedOption = 1,
    start: StartOption = "chains",
    sampler: Annotated[MachineSampler, listed(MachineSampler, "SAMPLER", "What draws the states")] = "gibbs",
    picture: Annotated[Path | None, typer.Option(help="PNG of the first states, for machines of images.")] = None,
    energies: Annotated[str | None, typer.Option(help="For a shower run: incident energies, as for generate.")] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Draw bits from a machine, or latent bits from the prior of a shower run at incident energies."""
    from calo4pqvae.standalone.assessment import draw_latents, draw_states
    from calo4pqvae.standalone.runs import open_prior_run

    _at_least("--sweeps", sweeps, 1)
    if energies is not None:
        drawn = draw_latents(run, energies, n, n_sweeps=sweeps, seed=seed, device=device)
        told: dict[str, str | int] = {"energies": energies}
    else:
        told = {"sampler": sampler, "start": start, "n_sweeps": 1000 if sweeps is None else sweeps}
        drawn = draw_states(
            open_prior_run(run, device),
            1000 if n is None else n,
            n_sweeps=1000 if sweeps is None else sweeps,
            seed=seed,
            start=start,
            sampler=sampler,
        )
    if picture is not None:
        _draw(drawn, picture)
    drawn.write(out, {"run": run.name, "seed": seed, **told})
    console.print(f"{drawn.n_states} states of {drawn.n_bits} bits in {out}, seed {seed}", soft_wrap=True)


@prior_app.command("diagnose")
def diagnose(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: diagnosis.json in the run.")] = None,
    chains: Annotated[int, typer.Option(help="Chains to follow.")] = 200,
    sweeps: Annotated[int, typer.Option(help="Sweeps to follow them for.")] = 2000,
    burn_in: Annotated[int, typer.Option(help="Sweeps before that.")] = 500,
    seed: SeedOption = 1,
    start: StartOption = "chains",
    device: DeviceOption = "cpu",
) -> None:
    """Autocorrelation and relaxation times, R-hat and effective sizes of the chains of a machine."""
    from calo4pqvae.atomic import write_json
    from calo4pqvae.standalone.assessment import diagnose_run
    from calo4pqvae.standalone.runs import open_prior_run

    _at_least("--chains", chains, 1)
    _at_least("--burn-in", burn_in, 0)
    found = diagnose_run(
        open_prior_run(run, device),
        n_chains=chains,
        n_sweeps=sweeps,
        burn_in=burn_in,
        seed=seed,
        start=start,
    )
    target = out or run / "diagnosis.json"
    write_json(target, found)
    rows = [
        {
            "quantity": one["name"],
            "tau_int (sweeps)": _with_error(one["tau_int"]),
            "relaxation time (sweeps)": _with_error(one["relaxation_time"]),
            "R-hat": f"{one['r_hat']:.4f}",
            "ESS": f"{one['ess']:.0f}",
        }
        for one in found["series"]
    ]
    print_table(f"{chains} chains, {sweeps} sweeps after {burn_in} from {start}, seed {seed}", rows)
    if found["warning"]:
        console.print(f"[yellow]warning:[/] {found['warning']}", soft_wrap=True, highlight=False)
    console.print(f"numbers: {target}", soft_wrap=True, highlight=False)


@prior_app.command("loglik")
def loglik(
    run: RunArgument,
    bits: Annotated[list[Path] | None, typer.Argument(help="Files of bits; default: the run's train and test.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: loglik.json in the run.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Makes bits of grey values in the files.")] = None,
    chains: Annotated[int, typer.Option(help="Chains of each direction.")] = 200,
    temperatures: Annotated[int, typer.Option(help="Temperatures of the path.")] = 5000,
    burn_in: Annotated[int, typer.Option(help="Sweeps before the reverse direction.")] = 1000,
    seed: SeedOption = 1,
    start: StartOption = "chains",
    device: DeviceOption = "cpu",
) -> None:
    """Log-likelihood by annealed importance sampling from both sides, or exactly for small machines."""
    from calo4pqvae.atomic import write_json
    from calo4pqvae.prior.bits.file import BitsFile
    from calo4pqvae.standalone.assessment import likelihood_of_run
    from calo4pqvae.standalone.runs import open_prior_run

    _at_least("--chains", chains, 2)
    _at_least("--temperatures", temperatures, 2)
    _at_least("--burn-in", burn_in, 0)
    opened = open_prior_run(run, device)
    given = {str(path): BitsFile.read(path, threshold=threshold) for path in bits or ()}
    found = likelihood_of_run(
        opened,
        n_chains=chains,
        n_temperatures=temperatures,
        burn_in=burn_in,
        seed=seed,
        start=start,
        bits=given or None,
    )
    target = out or run / "loglik.json"
    write_json(target, found)
    rows = [
        {
            "bits": name,
            "log Z from": direction,
            "log-likelihood (nats)": f"{told['value']:.2f} ± {told['error']:.2f} ± {told['log_z_error']:.2f} (log Z)",
            "states": str(told["n_states"]),
            "ESS": "-" if direction == "exact" else f"{found['log_z'][direction]['ess']:.0f}",
            "reliable": "yes" if told["is_reliable"] else "NO",
        }
        for name, directions in found["log_likelihood"].items()
        for direction, told in directions.items()
    ]
    print_table(f"seed {seed}; AIS tends to be high, reverse AIS low", rows)
    console.print(f"numbers: {target}", soft_wrap=True, highlight=False)


def _at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ConfigError(f"{option} {value} is too few: use at least {least}")


def _with_error(estimate: Any) -> str:  # noqa: ANN401
    if estimate["value"] is None or estimate["error"] is None:
        return "not found"
    return f"{'' if estimate['is_converged'] else '> '}{estimate['value']:.2f} ± {estimate['error']:.2f}"


def _draw(drawn: Any, picture: Path) -> None:  # noqa: ANN401
    from calo4pqvae.standalone.bit_images import save_bit_images

    if len(drawn.shape) != 2:
        raise ConfigError(f"states of shape {drawn.shape} are no pictures: leave out --picture")
    save_bit_images(picture, drawn.bits[:100], drawn.shape)
