"""Machines along two trainings on images: bipartite with hidden bits, and four-partite without.

Studies that follow a training share these, so that they are trained once for all of them.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from calo4pqvae.standalone.runs import load_bits
from calo4pqvae.standalone.settings import PriorRunConfig
from calo4pqvae.studies.frame.along_training import Training, pooled_images, training_at
from calo4pqvae.studies.frame.study import Progress, StudySettings
from calo4pqvae.studies.frame.trained import image_training

__all__ = ["ImageMachineSettings", "bipartite_training", "four_partite_training"]


class ImageMachineSettings(StudySettings):
    """Settings of the two trainings."""

    data: str = Field(
        "mnist", description="images: bundled ('mnist', 'fashion-mnist'), a folder of fetched ones, a file"
    )
    dataset: str | None = Field(None, description="name of the images in a file")
    threshold: float | None = Field(None, description="share of the range of grey above which a pixel of a file is one")
    pool: int = Field(2, ge=1, description="pixels on a side that become one, by majority; 1 keeps the images")
    image_run: str | None = Field(None, description="finished run of a bipartite machine, in place of training one")
    n_hidden: int = Field(100, ge=8, description="hidden bits of the bipartite machine")
    epochs: int = Field(200, ge=1, description="epochs of the trainings on images")


def bipartite_training(settings: ImageMachineSettings, folder: Path, seed: int, progress: Progress) -> Training:
    """A machine with hidden bits along its training; the run that is named, or one that is trained unless it is there.

    Args:
        settings: Settings.
        folder: The folder of a study, ``OUT/NAME``.
        seed: Seed of the training.
        progress: Told about every step.

    Raises:
        ConfigError: If the images cannot be pooled.
        DataError: If the images cannot be used.
        CheckpointError: If the run is damaged or not finished.
    """
    if settings.image_run is not None:
        return training_at(Path(settings.image_run))
    rates = {"learning_rate": 0.1, "learning_rate_final": 0.01}
    config = PriorRunConfig(n_hidden=settings.n_hidden, **rates, **_base(settings, folder, seed))
    return image_training(folder, config, "training (bipartite)", progress)


def four_partite_training(settings: ImageMachineSettings, folder: Path, seed: int, progress: Progress) -> Training:
    """A machine of four partitions without hidden bits along its training.

    Args:
        settings: Settings.
        folder: The folder of a study, ``OUT/NAME``.
        seed: Seed of the training.
        progress: Told about every step.

    Raises:
        ConfigError: If the images cannot be pooled.
        DataError: If the images cannot be used.
    """
    rates = {"learning_rate": 0.03, "learning_rate_final": 0.003}
    config = PriorRunConfig(graph="complete", **rates, **_base(settings, folder, seed))
    return image_training(folder, config, "training (four-partite)", progress)


def _base(settings: ImageMachineSettings, folder: Path, seed: int) -> dict[str, Any]:
    """What both trainings have in common, with the images as a file beside the trainings."""
    source, _ = load_bits(
        PriorRunConfig(data=settings.data, dataset=settings.dataset, threshold=settings.threshold, seed=seed)
    )
    target = folder.parent / "trained" / f"{Path(settings.data).stem}-pooled-{settings.pool}.h5"
    pooled = str(pooled_images(source, settings.pool, target))
    sizes = {"batch_size": 100, "n_chains": 100, "n_saved": 30, "n_sweeps": 5}
    return {"data": pooled, "epochs": settings.epochs, "seed": seed, **sizes}
