"""TensorBoard, when it is asked for: the rows of ``metrics.jsonl`` as curves."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from calo4pqvae.errors import ConfigError

__all__ = ["BoardWriter", "scalars"]


class BoardWriter:
    """Writes rows of metrics to a TensorBoard log.

    Args:
        folder: Where the log goes.

    Raises:
        ConfigError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "training.tensorboard = true needs TensorBoard: install calo4pqvae[tensorboard] or set it to false"
            ) from error
        self._writer = SummaryWriter(str(folder))

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds the numbers of a row at its epoch or update."""
        step = row.get("epoch", row.get("update"))
        for name, value in scalars(row):
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


def scalars(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a nested row with their names, joined by slashes; the stage comes first, counters are left out."""
    start = f"{row['stage']}/" if "stage" in row else prefix
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{start}{name}/")
        elif isinstance(value, bool | int | float) and name not in ("epoch", "update"):
            yield start + name, float(value)
