"""Answers of dimod samplers as reads: checked, in the order of the problem, one row a read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calo4pqvae.annealer.chip.problem import IsingProblem, Reads, spins_to_bits
from calo4pqvae.errors import AnnealerError

__all__ = ["access_seconds", "join_reads", "reads_of_answer"]


def access_seconds(answer: Any) -> float | None:  # noqa: ANN401
    """Charged time that an answer reports, in seconds; None if it reports none.

    Args:
        answer: A ``dimod.SampleSet``.
    """
    access = (answer.info.get("timing") or {}).get("qpu_access_time")
    return None if access is None else float(access) * 1e-6


def reads_of_answer(answer: Any, problem: IsingProblem, asked: int, info: Mapping[str, Any]) -> Reads:  # noqa: ANN401
    """Reads of an answer.

    Args:
        answer: A ``dimod.SampleSet``; rows that occur several times are repeated.
        problem: What was programmed.
        asked: Reads that were asked for.
        info: What to note with the reads, beside what the answer says.

    Raises:
        AnnealerError: If the answer is for other qubits, holds something but spins, or more reads than were asked for.
    """
    spins = answer.change_vartype("SPIN", inplace=False)
    column = {label: index for index, label in enumerate(spins.variables)}
    labels = problem.qubits.tolist()
    if column.keys() != set(labels):
        raise AnnealerError(
            f"the answer is for {len(column)} qubits that are not the {len(labels)} of the problem; use another sampler"
        )
    rows = np.repeat(spins.record.sample, spins.record.num_occurrences, axis=0)
    if len(rows) > asked:
        raise AnnealerError(f"the answer holds {len(rows)} reads where {asked} were asked for; use another sampler")
    bits = spins_to_bits(rows[:, [column[label] for label in labels]])
    timing = {key: float(value) for key, value in (answer.info.get("timing") or {}).items()}
    noted = {key: value for key, value in answer.info.items() if key != "timing"}
    return Reads(bits, problem, timing, noted | dict(info) | {"reads_per_call": (len(bits),)})


def join_reads(parts: Sequence[Reads]) -> Reads:
    """Reads of several calls of one problem as one, in their order.

    Times are added up, but for those of a single sample; of the notes, those of the first are kept, with all calls.

    Raises:
        AnnealerError: If there is none, or problems differ.
    """
    if not parts:
        raise AnnealerError("there are no reads to join; give at least one")
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(part.problem is not first.problem for part in parts):
        raise AnnealerError("reads of different problems are not joined; keep them apart")
    timing = dict(first.timing)
    for part in parts[1:]:
        for key, value in part.timing.items():
            timing[key] = value if "per_sample" in key else timing.get(key, 0.0) + value
    lists = {
        key: tuple(entry for part in parts for entry in part.info.get(key, ())) for key in ("calls", "reads_per_call")
    }
    return Reads(np.concatenate([part.bits for part in parts]), first.problem, timing, dict(first.info) | lists)
