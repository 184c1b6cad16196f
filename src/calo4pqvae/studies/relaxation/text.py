"""What the study of relaxation found, in sentences that are written from its numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calo4pqvae.studies.frame.study import with_error

__all__ = ["relaxation_text"]

Numbers = Mapping[str, Any]

_AGREES = 2.0  # standard errors
_CLOSE = 0.1  # relative difference within which theory counts as right
_LEAST_P = 0.01


def relaxation_text(numbers: Numbers) -> list[str]:
    """Paragraphs on a result of the study.

    Args:
        numbers: Numbers of the study, as plain data.
    """
    return [
        _learning(numbers["learning"], str(numbers["showers"])),
        _exact(numbers["exact"]),
        _training(numbers["training"], int(numbers["sweeps_of_an_update"])),
        _modes(numbers["modes"]),
        _size(numbers["size"]),
        _temperature(numbers["temperature"]),
    ]


def _learning(found: Numbers, origin: str) -> str:
    times, sweeps = found["relaxation"], found["sweeps"]
    is_lower = found["is_lower_limit"]
    known = [place for place, one in enumerate(times) if one["value"] is not None]
    below = sum(1 for place in known if sweeps[place] < times[place]["value"])
    last = times[-1]
    limit = ", a lower limit" if is_lower[-1] else ""
    gap, validation = found["gap"], found["gap_validation"]
    pull, other = (abs(one["value"]) / one["error"] for one in (gap, validation))
    verdict = "agree within two standard errors" if pull <= _AGREES else "do not agree within two standard errors"
    return (
        f"While the prior of the shower model was learned, the longest relaxation time of its chains went from "
        f"{with_error(times[0])} to {with_error(last)} sweeps{limit}, and the sweeps of an update from {sweeps[0]:g} "
        f"to {sweeps[-1]:g}; in {below} of {len(times)} measurements the sweeps were fewer than the relaxation time. "
        f"At the end mean energies of data and of fresh samples {verdict}: {with_error(found['energy_data'])} and "
        f"{with_error(found['energy_samples'])} nats, difference at equal incident energies {with_error(gap)} "
        f"({pull:.1f} standard errors, {gap['n']} showers, spread of the energy {found['energy_spread']['value']:.1f} "
        f"nats, samples {found['sweeps_from_coins']} sweeps from fair coins). For {validation['n']} showers that were "
        f"not learned the difference is {with_error(validation)} ({other:.1f} standard errors). {origin}"
    )


def _exact(found: Numbers) -> str:
    square, machines = found["chi_square"], found["machines"]
    verdict = "agree within errors" if square["p_value"] >= _LEAST_P else "do not agree within errors"
    worst = min(machines, key=lambda one: one["energy"]["value"] / one["exact"]["value"])
    slow = max(machines, key=lambda one: one["exact"]["value"])
    return (
        f"On {square['machines']} tiny machines the relaxation times of the slowest eigenfunction and those of the "
        f"exact second eigenvalue {verdict} (chi-square {square['value']:.1f}, p = {square['p_value']:.2g}); the "
        f"slowest ({slow['machine']}, beta {slow['beta']:g}) has {slow['exact']['value']:.3g} sweeps exactly and "
        f"{with_error(slow['slowest_function'])} measured. Energy and leading mode can be blind to the slowest memory: "
        f"at worst the energy showed {100 * worst['energy']['value'] / worst['exact']['value']:.0f} % of the exact "
        f"time ({worst['machine']}, beta {worst['beta']:g})."
    )


def _training(found: Numbers, n_sweeps: int) -> str:
    parts, slow, total = [], 0, 0
    for name, steps in found.items():
        peaks = {step: _slowest(one) for step, one in steps.items()}
        total += len(peaks)
        slow += sum(1 for one in peaks.values() if (one["relaxation"]["value"] or float("inf")) > n_sweeps)
        first, last = (peaks[step] for step in (next(iter(peaks)), list(peaks)[-1]))
        parts.append(f"{name}: {_told(first)} sweeps at the start, {_told(last)} at {list(peaks)[-1]}")
    ends = sum(1 for steps in found.values() for one in steps.values() if one["mode 1"]["theory"]["value"] is None)
    return (
        "Along the training on images the longest relaxation time of energy and modes was: "
        f"{'; '.join(parts)}. {slow} of {total} relax in more than the {n_sweeps} sweeps of an update, so that a "
        "sample of the negative phase remembers the one before. The linear theory of the leading mode has no time "
        f"(memory of one or more) at {ends} of them."
    )


def _modes(found: Numbers) -> str:
    parts = []
    for name, one in found.items():
        ratios = list(_ratios(one))
        close = sum(1 for ratio, error in ratios if abs(ratio - 1) <= max(_CLOSE, _AGREES * error))
        total = sum(1 for key in one if key.startswith("mode"))
        values = [ratio for ratio, _ in ratios]
        told = f", ratios {min(values):.2f} to {max(values):.2f}" if ratios else ""
        parts.append(f"{name}: {close} of {total}{told}")
    return (
        "Mode by mode, measured relaxation times (no mere limits) are within 10 % or two standard errors of the linear "
        f"theory with measured gains for {'; '.join(parts)}."
    )


def _size(points: Sequence[Numbers]) -> str:
    parts = []
    for form in dict.fromkeys(str(one["form"]) for one in points):
        first, last = ([one for one in points if one["form"] == form][place] for place in (0, -1))
        theory = last["theory"]
        told = "no time" if theory["value"] is None else f"{with_error(theory)}"
        fair = last["theory_fair_bits"]
        parts.append(
            f"{form}: {with_error(first['measured'])} sweeps with {first['units_of_a_partition']} bits a partition, "
            f"{with_error(last['measured'])} with {last['units_of_a_partition']} (theory {told} with measured gains, "
            f"{'no time' if fair['value'] is None else with_error(fair)} for fair bits)"
        )
    return f"At one strength of the couplings the leading mode relaxed in: {'; '.join(parts)}."


def _temperature(found: Numbers) -> str:
    parts = []
    for name, scan in found.items():
        hot, cold = next(iter(scan)), list(scan)[-1]
        parts.append(f"{name}: {_told(_slowest(scan[hot]))} sweeps at {hot}, {_told(_slowest(scan[cold]))} at {cold}")
    return (
        f"Longest relaxation times by temperature: {'; '.join(parts)}. Only the conditional law at given energies is "
        "trained; with nothing held the machine is sampled as it stands."
    )


def _slowest(one: Numbers) -> Numbers:
    """What relaxes last among energy and modes; what has no finite time comes first."""
    rows = [row for row in one.values() if isinstance(row, Mapping)]
    return max(rows, key=lambda row: float("inf") if row["relaxation"]["value"] is None else row["relaxation"]["value"])


def _told(row: Numbers) -> str:
    time = row["relaxation"]
    if time["value"] is None:
        return "more than can be told"
    if row["limit"] == "lower":
        return f"at least about {time['value']:.3g}"
    if row["limit"] == "upper":
        return f"less than {time['value']:.2g}"
    return with_error(time)


def _ratios(one: Numbers) -> Iterator[tuple[float, float]]:
    """Measured over theory, with its error, of the modes that have both."""
    for key, row in one.items():
        if key.startswith("mode") and row["limit"] == "none" and row["theory"]["value"] is not None:
            theory = row["theory"]["value"]
            yield row["relaxation"]["value"] / theory, row["relaxation"]["error"] / theory
