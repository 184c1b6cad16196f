"""Settings of a training of the prior through an annealer; they are kept with the run and do not change on resuming."""

from dataclasses import dataclass

from calo4pqvae.annealer.learning.negative_phase import PhaseCorrection, PhaseProtocol
from calo4pqvae.errors import ConfigError

__all__ = ["AnnealerTrainingSettings"]


@dataclass(frozen=True)
class AnnealerTrainingSettings:
    """How a prior is trained through an annealer.

    Args:
        updates: Steps of the machine.
        conditions: Conditions of a step, each a programming, or all of them one with copies.
        reads: Reads of a condition.
        events: Posterior states to learn from; all if None.
        energy_shift: Largest relative shift of an incident energy by binning; 0 for none.
        protocol: ``"same-reads"`` or ``"tracked"``.
        correction: ``"importance"``, ``"polish"`` or ``"none"``.
        polish_sweeps: Block Gibbs sweeps of a polish.
        learning_rate: First step size.
        learning_rate_final: Last step size, reached geometrically.
        start_beta: First guess of beta; that of the chip if None.
        least_share: Effective share of the reads below which no step is made.
        is_tiled: Whether whole copies of the machine side by side share a programming.
        is_pruned: Whether bits and couplers that are gone from the chip may be left out.
        validate_every: Steps between looks at the validation energy gap; 0 for none.
        validation_draws: Samples of a validation event at such a look; the last one takes four times as many.
        seed: Of the training and of an emulator.

    Raises:
        ConfigError: If a number makes no sense.
    """

    updates: int = 250
    conditions: int = 4
    reads: int = 100
    events: int | None = None
    energy_shift: float = 0.0
    protocol: PhaseProtocol = "same-reads"
    correction: PhaseCorrection = "importance"
    polish_sweeps: int = 5
    learning_rate: float = 0.8
    learning_rate_final: float = 0.05
    start_beta: float | None = None
    least_share: float = 0.2
    is_tiled: bool = False
    is_pruned: bool = False
    validate_every: int = 50
    validation_draws: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        rules = {
            "updates": (self.updates >= 1, "1 or more"),
            "conditions": (self.conditions >= 1, "1 or more"),
            "reads": (self.reads >= 2, "2 or more, to tell beta from them"),
            "events": (self.events is None or self.events >= 2, "2 or more"),
            "energy_shift": (0 <= self.energy_shift < 1, "in [0, 1)"),
            "polish_sweeps": (self.polish_sweeps >= 0, "0 or more"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "learning_rate_final": (0 < self.learning_rate_final <= self.learning_rate, "in (0, learning_rate]"),
            "start_beta": (self.start_beta is None or self.start_beta > 0, "above 0"),
            "least_share": (0 <= self.least_share < 1, "in [0, 1)"),
            "validate_every": (self.validate_every >= 0, "0 or more"),
            "validation_draws": (self.validation_draws >= 1, "1 or more"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise ConfigError(f"{name} = {getattr(self, name)!r} is out of range; it must be {allowed}")
        if self.is_tiled and self.is_pruned:
            raise ConfigError("copies that learn together must be whole: leave out --prune, or --tiled")
