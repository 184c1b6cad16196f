"""The annealer's part of the command ``generate``: its options and messages. The work is done by the library."""

from pathlib import Path
from typing import Any

from calo4pqvae.cli.terminal import bars, console
from calo4pqvae.errors import ConfigError

__all__ = ["generate_annealed", "given_words", "wants_annealer"]


def given_words(
    annealer: str | None,
    mode: str | None,
    condition: str | None,
    protocol: str | None,
    slips: str | None,
    bins: float | None,
    polish: int | None,
    prune: bool,
    limit: float | None,
    reads_per_call: int | None = None,
) -> dict[str, Any]:
    """Options of ``generate --sampler annealer`` that were given, by name."""
    words: dict[str, Any] = {"annealer": annealer, "mode": mode, "condition": condition, "protocol": protocol}
    words |= {"slips": slips, "bins": bins, "polish": polish, "prune": prune or None, "limit": limit}
    words |= {"reads_per_call": reads_per_call}
    return {name: value for name, value in words.items() if value is not None}


def wants_annealer(sampler: str, words: dict[str, Any], has_others: bool) -> bool:
    """Whether an annealer is asked for.

    Args:
        sampler: ``gibbs`` or ``annealer``.
        words: Options of the annealer that were given.
        has_others: Whether options of the other sampler were given.

    Raises:
        ConfigError: If an option is not for that sampler.
    """
    if sampler == "annealer":
        if has_others:
            raise ConfigError("--prior, --sweeps and --device cuda are for --sampler gibbs: leave them out")
        return True
    if words:
        option = next(iter(words)).replace("_", "-")
        raise ConfigError(f"--{option} is for --sampler annealer: add it, or leave --{option} out")
    return False


def generate_annealed(
    run: Path, out: Path, energies: str, n: int | None, seed: int | None, words: dict[str, Any]
) -> None:
    """The command ``generate`` with an annealer."""
    from calo4pqvae.annealed.generation import annealer_folder, generate_by_annealer
    from calo4pqvae.annealed.machine import emulator_of
    from calo4pqvae.annealer.calls.annealer import open_annealer
    from calo4pqvae.annealer.protocols.tiled import Tiled
    from calo4pqvae.models.qvae.trained import as_qvae
    from calo4pqvae.runs.generation import load_model, parse_energies

    settings = _generation_of(words)
    model = as_qvae(load_model(run))
    chosen = model.config.generation.seed if seed is None else seed
    incident = parse_energies(energies, n, chosen, (model.config.data.energy_min_mev, model.config.data.energy_max_mev))
    annealer = open_annealer(
        words.get("annealer") or emulator_of(model.prior.machine, is_full=settings.protocol == Tiled.name),
        seed=chosen,
        mode=words.get("mode", "calibrated"),
        limit=words.get("limit"),
        ledger=annealer_folder(out) / "ledger.jsonl",
    )
    with bars() as shown:
        made = generate_by_annealer(model, annealer, incident, out, seed=chosen, settings=settings, progress=shown.show)
    for line in _told(made.report, out):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _generation_of(words: dict[str, Any]) -> Any:  # noqa: ANN401
    """Settings of a generation from what was given.

    Raises:
        ConfigError: If a number is too small.
    """
    from calo4pqvae.annealed.generation import AnnealerGeneration

    polish = words.get("polish", 10)
    for name, number in (("polish", polish), ("reads-per-call", words.get("reads_per_call", 0))):
        if number < 0:
            raise ConfigError(f"--{name} {number} is too few: use at least 0")
    return AnnealerGeneration(
        protocol=words.get("protocol", "same-reads"),
        condition=words.get("condition", "fold"),
        policy=words.get("slips", "reject"),
        correction="polish" if polish else "none",
        polish_sweeps=polish,
        bins=words.get("bins"),
        is_pruned=bool(words.get("prune")),
        reads_per_call=words.get("reads_per_call"),
    )


def _told(report: dict[str, Any], out: Path) -> list[str]:
    """What a generation brought, in lines."""
    from calo4pqvae.annealer.protocols.polish import told_error

    clamp, betas = report["clamp"], [row["beta"] for row in report["betas"]]
    lines = [f"pruned: {report['left_out']}"] if report["left_out"] else []
    if report["tiles"] is not None:
        lines.append(_tiles_told(**report["tiles"]))
    if report["bins"] is not None:
        bins = report["bins"]
        lines.append(
            f"{bins['bins']} bins of energy: shift {bins['largest_shift']:.3g} at most, "
            f"{bins['share_with_another_condition']:.1%} of the requests have another condition"
        )
    sweeps = report["polish_sweeps"] if report["correction"] == "polish" else 0
    held = f"{clamp['n_held']} bits held on the chip, {clamp['n_wrong_bits']} of {clamp['n_reads'] * clamp['n_held']}"
    slipped = f"{held} wrong ({clamp['rate']:.2g} +- {clamp['rate_error']:.1g})" if clamp["n_held"] else "no bit held"
    ledger, kind = report["ledger"], "emulated access time" if report["emulated"] else "access time"
    made = f"{report['n_showers']} showers in {out} from {report['annealer']} ({report['protocol']}, "
    spent = (
        f"{ledger['programmings']} programmings, {ledger['reads']} reads, {ledger['access_seconds']:.4g} s of {kind}"
    )
    if report["estimates_that_did_not_settle"]:
        n_open, n_all = report["estimates_that_did_not_settle"], len(report["betas"])
        lines.append(f"beta did not settle in {n_open} of {n_all} estimates; take same-reads, or another start")
    if report["polish"] is not None:
        effect = report["polish"]
        lines.append(
            f"polish: mean energy {effect['energy_before']:.2f} to {effect['energy_after']:.2f} nats (change "
            f"{effect['energy_change']:+.2f} +- {told_error(effect['energy_change_error'])}), "
            f"{effect['flipped_share']:.1%} of the free bits flipped"
        )
    return [
        *lines,
        made + f"{report['n_conditions']} conditions, polish of {sweeps} sweeps), seed {report['seed']}",
        f"beta {min(betas):.3f} to {max(betas):.3f}; condition by {report['condition']}: {slipped}",
        spent + f", {report['access_seconds_per_shower'] * 1e3:.4g} ms a shower, {ledger['faults']} faults",
    ]


def _tiles_told(copies: int, whole: int, places: int) -> str:
    """Copies of the machine on the chip, in a line."""
    told = f"copies of the machine side by side: {copies}, {whole} of them whole"
    return told if places <= copies else f"{told} (with --prune there would be {places})"
