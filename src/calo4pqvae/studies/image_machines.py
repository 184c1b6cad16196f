"""Machines along two trainings on images of half the side: bipartite with hidden bits, and four-partite without.

Studies that follow a training share these, so that they are trained once for all of them.
"""

from pathlib import Path
from typing import Any

from calo4pqvae.prior_config import PriorRunConfig
from calo4pqvae.prior_runs import load_bits
from calo4pqvae.studies.along_training import Training, pooled_images, training_at
from calo4pqvae.studies.study import Progress
from calo4pqvae.studies.trained import image_training

__all__ = ["bipartite_training", "four_partite_training"]

_POOLED = 2  # pixels on a side that become one


def bipartite_training(
    data: str, n_hidden: int, epochs: int, run: str | None, folder: Path, seed: int, progress: Progress
) -> Training:
    """A machine with hidden bits along its training.

    Args:
        data: Images, as in the settings of a stand-alone machine.
        n_hidden: Hidden bits.
        epochs: Epochs.
        run: A finished run to take instead; None trains one, unless it is there.
        folder: The folder of a study, ``OUT/NAME``.
        seed: Seed of the training.
        progress: Told about every step.

    Raises:
        DataError: If the images cannot be used.
        CheckpointError: If the run is damaged or not finished.
    """
    if run is not None:
        return training_at(Path(run))
    config = PriorRunConfig(
        n_hidden=n_hidden, learning_rate=0.1, learning_rate_final=0.01, **_base(data, epochs, folder, seed)
    )
    return image_training(folder, config, "training (bipartite)", progress)


def four_partite_training(data: str, epochs: int, folder: Path, seed: int, progress: Progress) -> Training:
    """A machine of four partitions without hidden bits along its training.

    Args:
        data: Images, as in the settings of a stand-alone machine.
        epochs: Epochs.
        folder: The folder of a study, ``OUT/NAME``.
        seed: Seed of the training.
        progress: Told about every step.

    Raises:
        DataError: If the images cannot be used.
    """
    config = PriorRunConfig(
        graph="complete", learning_rate=0.03, learning_rate_final=0.003, **_base(data, epochs, folder, seed)
    )
    return image_training(folder, config, "training (four-partite)", progress)


def _base(data: str, epochs: int, folder: Path, seed: int) -> dict[str, Any]:
    source, _ = load_bits(PriorRunConfig(data=data))
    target = folder.parent / "trained" / f"{Path(data).name}-pooled-{_POOLED}.h5"
    pooled = str(pooled_images(source, _POOLED, target))
    sizes = {"batch_size": 100, "n_chains": 100, "n_saved": 30, "n_sweeps": 5}
    return {"data": pooled, "epochs": epochs, "seed": seed, **sizes}
