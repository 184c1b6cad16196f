r"""Binary classifiers between generated and Geant4 showers: how far they can be told apart, with errors.

Three of them, as in the CaloChallenge, each in two declared forms:

==========  ========================================  ============================================================
kind        input                                     network of the full form
==========  ========================================  ============================================================
``low``     log10 of the incident energy, then        perceptron, three hidden layers of 2048
            voxels / incident energy
``high``    any matrix of high-level features         the same
``cnn``     as ``low``, voxels as (layer, angle,      18-layer 3D residual network, planes 32/64/64/128
            ring)
==========  ========================================  ============================================================

``full`` is the challenge's: float64, Adam with learning rate 2e-4, batches of 1000, 50 epochs of binary cross-entropy.
``quick`` is for small samples on a CPU: networks of a tenth of the size and less in float32, standardised voxels or
decorrelated features, few epochs with an early stop, a residual network on patches of the grid. Its numbers are never
mixed with those of the full form: combining or subtracting results of different settings is an error.

Each class is cut at random into 60 % to train on, 20 % to test and 20 % to validate. The network of the epoch with the
best test accuracy is kept; its probabilities are calibrated by isotonic regression on the test part, within 1e-6 of 0
and 1; AUC and Jensen-Shannon divergence (in bits) are those of the calibrated probabilities on the validation part,
which nothing was chosen on. 0.5 and 0 mean indistinguishable.

One run has DeLong's error. Several seeds have other splits and first weights; as their showers are partly the same,
the error quoted for their mean is that of one run: the spread over the runs or their DeLong error, whichever is larger.

References:
    Krause et al., CaloChallenge 2022, arXiv 2410.21611, and its public evaluation script.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from torch import nn

from calo4pqvae.errors import ConfigError, DataError, DivergenceError
from calo4pqvae.evaluation.classifiers.data import (
    PARTS,
    ClassifierInput,
    Split,
    VoxelInput,
    find_copies,
    make_split,
)
from calo4pqvae.evaluation.classifiers.networks import Perceptron, ResidualNetwork, Stem
from calo4pqvae.evaluation.classifiers.rows import LabelledRows, Standardiser
from calo4pqvae.evaluation.classifiers.symmetry import Symmetry
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.receiver_operating import auc_components, jensen_shannon
from calo4pqvae.seeds import stream

__all__ = [
    "ClassifierResult",
    "ClassifierRun",
    "ClassifierSettings",
    "TrainedClassifier",
    "classifier_settings",
    "classify",
    "combine_runs",
    "train_classifier",
]

FloatArray = NDArray[np.float64]
Kind = Literal["low", "high", "cnn"]
Form = Literal["quick", "plain", "full", "custom"]
Progress = Callable[[int, int, float], None]

_CLIP = 1e-6


@dataclass(frozen=True)
class ClassifierSettings:
    """What a classifier is and how it is trained; made by :func:`classifier_settings`.

    Args:
        kind: ``low``, ``high`` or ``cnn``.
        form: ``full``, ``quick`` or ``plain`` as they stand; ``custom`` for anything else.
        hidden: Widths of the hidden layers of a perceptron.
        planes: Channels of the groups of a residual network.
        blocks: Blocks in each group.
        is_turned: Whether every shower is turned and mirrored at random whenever it is learnt from.
        is_patched: Whether the residual network cuts the grid into patches, as the quick form does.
        dtype: ``float64`` or ``float32``.
        preparation: ``standardised`` brings inputs to mean 0 and standard deviation 1, as they are in the training
            part; ``decorrelated`` also turns them so that they are uncorrelated there; ``none`` takes them as they are.
        learning_rate: Of Adam.
        batch_size: Showers of both kinds in a step.
        max_epochs: Most epochs.
        patience: Epochs without a better test accuracy after which training stops; None for never.
    """

    kind: Kind
    form: Form
    hidden: tuple[int, ...] = (2048, 2048, 2048)
    planes: tuple[int, ...] = (32, 64, 64, 128)
    blocks: int = 2
    is_turned: bool = False
    is_patched: bool = False
    dtype: Literal["float32", "float64"] = "float64"
    preparation: Literal["none", "standardised", "decorrelated"] = "none"
    learning_rate: float = 2e-4
    batch_size: int = 1000
    max_epochs: int = 50
    patience: int | None = None


def classifier_settings(kind: Kind, form: Form = "quick") -> ClassifierSettings:
    """The settings of a declared form.

    Raises:
        ConfigError: If there is no such kind or form.
    """
    if (kind, form) not in _SETTINGS:
        raise ConfigError(
            f"there is no {form!r} classifier of kind {kind!r}; choose low, high or cnn, as quick, plain or full"
        )
    return _SETTINGS[kind, form]


def _quick(form: Form, kind: Kind, learning_rate: float, max_epochs: int, patience: int) -> ClassifierSettings:
    return ClassifierSettings(
        kind,
        form,
        hidden=(256, 256),
        planes=(16, 32),
        blocks=1,
        is_turned=form == "quick",
        is_patched=True,
        dtype="float32",
        preparation="decorrelated" if kind == "high" else "standardised",
        learning_rate=learning_rate,
        batch_size=250,
        max_epochs=max_epochs,
        patience=patience,
    )


_SETTINGS: Mapping[tuple[str, str], ClassifierSettings] = {
    ("low", "full"): ClassifierSettings("low", "full"),
    ("high", "full"): ClassifierSettings("high", "full"),
    ("cnn", "full"): ClassifierSettings("cnn", "full"),
    ("low", "plain"): _quick("plain", "low", 2e-4, 8, 3),
    ("high", "plain"): _quick("plain", "high", 5e-4, 30, 8),
    ("cnn", "plain"): _quick("plain", "cnn", 1e-3, 8, 3),
    ("low", "quick"): _quick("quick", "low", 2e-4, 24, 6),
    ("high", "quick"): _quick("quick", "high", 5e-4, 30, 8),
    ("cnn", "quick"): _quick("quick", "cnn", 1e-3, 24, 6),
}


@dataclass(frozen=True)
class ClassifierRun:
    """One trained classifier.

    Args:
        settings: What it is.
        seed: Seed of split, first weights and order.
        auc: Of the calibrated probabilities on the validation part, with DeLong's error.
        raw_auc: The same before calibration.
        jsd: Jensen-Shannon divergence in bits, calibrated, on the validation part.
        accuracy: Calibrated, on the validation part.
        best_epoch: The epoch that was kept, from 1.
        n_epochs: Epochs trained.
        sizes: Showers of each class in each part.
        n_unused: Showers of the larger sample that were left out.
    """

    settings: ClassifierSettings
    seed: int
    auc: Estimate
    raw_auc: Estimate
    jsd: Estimate
    accuracy: Estimate
    best_epoch: int
    n_epochs: int
    sizes: Mapping[str, int]
    n_unused: int

    def to_dict(self) -> dict[str, object]:
        """The numbers as plain data, without the settings."""
        estimates = {name: getattr(self, name).to_dict() for name in ("auc", "raw_auc", "jsd", "accuracy")}
        plain = {name: getattr(self, name) for name in ("seed", "best_epoch", "n_epochs", "n_unused")}
        return {**plain, **estimates, "showers_of_each_class": dict(self.sizes)}


@dataclass(frozen=True)
class ClassifierResult:
    """A classifier trained with several seeds.

    Args:
        settings: What it is; the same for all runs.
        runs: One a seed.
        auc: Mean over the runs, with the error of one run (see the module's text).
        jsd: The same of the Jensen-Shannon divergence, in bits.
        warnings: Sentences on what makes it doubtful.
    """

    settings: ClassifierSettings
    runs: tuple[ClassifierRun, ...]
    auc: Estimate
    jsd: Estimate
    warnings: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """``quick``, ``full`` or ``custom``."""
        return self.settings.form

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    @property
    def error_kind(self) -> str:
        """What the error of the AUC is."""
        return "spread over trainings or DeLong, the larger"

    def row_settings(self) -> dict[str, object]:
        """What a table says beside the AUC."""
        return {"form": self.form, "jsd_bits": self.jsd.value, "trainings": len(self.runs)}

    def to_dict(self) -> dict[str, object]:
        """All numbers as plain data."""
        return {
            "kind": self.settings.kind,
            "form": self.form,
            "auc": self.auc.to_dict(),
            "jsd_bits": self.jsd.to_dict(),
            "seeds": list(self.seeds),
            "runs": [run.to_dict() for run in self.runs],
            "settings": asdict(self.settings),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A network with its calibration, to score showers with.

    Args:
        network: Maps inputs to logits.
        rows: The labelled rows of each part.
        calibrator: From probabilities of the network to calibrated ones.
        run: Its numbers.
    """

    network: nn.Module
    rows: Mapping[str, LabelledRows]
    calibrator: IsotonicRegression = field(repr=False)
    run: ClassifierRun

    def logits(self, part: str) -> FloatArray:
        """Log odds of being a reference shower, of all showers of a part, (showers,)."""
        return _logits(self.network, self.rows[part])

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """Calibrated probabilities of being a reference shower, within 1e-6 of 0 and 1."""
        return _calibrated(self.calibrator, logits)


def classify(
    reference: ClassifierInput,
    generated: ClassifierInput,
    kind: Kind,
    form: Form = "quick",
    *,
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "cpu",
    progress: Progress | None = None,
) -> ClassifierResult:
    """Trains a classifier with several seeds.

    Args:
        reference: Geant4 showers; voxels for ``low`` and ``cnn``, features for ``high``.
        generated: Generated showers.
        kind: ``low``, ``high`` or ``cnn``.
        form: ``quick`` or ``full``.
        seeds: One run each; with fewer than three the spread over them says little.
        device: ``cpu``, ``cuda`` or ``auto``.
        progress: Called with (epochs done, most epochs of all runs, test accuracy) after each epoch.

    Raises:
        ConfigError: If the kind, the form or the device does not exist, or no seed is given.
        DataError: If the samples cannot be compared.
        DivergenceError: If a loss is no longer finite.
    """
    settings = classifier_settings(kind, form)
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ConfigError(f"seeds {tuple(seeds)} must be different, and at least one")
    warnings = find_copies(reference, generated)
    runs = []
    for number, seed in enumerate(seeds):

        def shifted(epoch: int, most: int, accuracy: float, before: int = number) -> None:
            if progress is not None:
                progress(before * most + epoch, len(seeds) * most, accuracy)

        runs.append(train_classifier(reference, generated, settings, seed=seed, device=device, progress=shifted).run)
    return combine_runs(runs, warnings)


def combine_runs(runs: Sequence[ClassifierRun], warnings: tuple[str, ...] = ()) -> ClassifierResult:
    """Mean of several runs of one classifier.

    Raises:
        ConfigError: If there is no run, or runs of different settings, such as a quick and a full one.
    """
    if not runs:
        raise ConfigError("there is no classifier run to combine; give at least one")
    _check_alike([run.settings for run in runs])
    return ClassifierResult(
        runs[0].settings, tuple(runs), _mean([run.auc for run in runs]), _mean([run.jsd for run in runs]), warnings
    )


def train_classifier(
    reference: ClassifierInput,
    generated: ClassifierInput,
    settings: ClassifierSettings,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TrainedClassifier:
    """Trains, calibrates and measures one classifier.

    Args:
        reference: Geant4 showers.
        generated: Generated showers.
        settings: What to train.
        seed: Seed of split, first weights and order of the showers.
        device: ``cpu``, ``cuda`` or ``auto``.
        progress: Called with (epochs done, most epochs, test accuracy) after each epoch.

    Raises:
        ConfigError: If the inputs do not suit the kind, or the device is not there.
        DataError: If the samples cannot be compared.
        DivergenceError: If the loss is no longer finite.
    """
    if settings.kind != "high" and not (isinstance(reference, VoxelInput) and isinstance(generated, VoxelInput)):
        raise ConfigError(f"a classifier of kind {settings.kind!r} needs voxels; give it two VoxelInput")
    split = make_split(reference, generated, seed)
    target, dtype = _device(device), getattr(torch, settings.dtype)
    rows = {part: LabelledRows(reference, generated, split, part, dtype, target) for part in PARTS}
    network = _network(reference, settings, stream(seed, "classifier weights")).to(target, dtype)
    if settings.preparation != "none":
        network = nn.Sequential(Standardiser.of(rows["train"], settings.preparation == "decorrelated"), network)
    best_epoch, n_epochs = _fit(network, rows, settings, seed, progress)
    calibrator = IsotonicRegression(out_of_bounds="clip", y_min=_CLIP, y_max=1 - _CLIP)
    calibrator.fit(_sigmoid(_logits(network, rows["test"])), rows["test"].labels.astype(np.float64))
    run = _measure(network, rows["validation"], calibrator, settings, seed, (best_epoch, n_epochs), split)
    return TrainedClassifier(network, rows, calibrator, run)


def _fit(
    network: nn.Module,
    rows: Mapping[str, LabelledRows],
    settings: ClassifierSettings,
    seed: int,
    progress: Progress | None,
) -> tuple[int, int]:
    """Trains, leaves the weights of the best test accuracy in ``network``; best epoch and number of epochs."""
    turn = Symmetry.of(rows["train"].samples[0]) if settings.is_turned else None
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    best, best_epoch, epoch = -1.0, 0, 0
    kept: dict[str, torch.Tensor] = {}
    for epoch in range(1, settings.max_epochs + 1):
        order = stream(seed, "classifier order", epoch)
        _train_epoch(network, rows["train"], optimiser, settings.batch_size, order, turn)
        accuracy = float(np.mean((_logits(network, rows["test"]) > 0) == rows["test"].labels))
        if accuracy > best:
            best, best_epoch = accuracy, epoch
            kept = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if progress is not None:
            progress(epoch, settings.max_epochs, accuracy)
        if best == 1.0 or (settings.patience is not None and epoch - best_epoch >= settings.patience):
            break
    network.load_state_dict(kept)
    return best_epoch, epoch


def _train_epoch(
    network: nn.Module,
    rows: LabelledRows,
    optimiser: torch.optim.Optimizer,
    batch_size: int,
    generator: torch.Generator,
    turn: Symmetry | None,
) -> None:
    network.train()
    order = torch.randperm(len(rows), generator=generator)
    for start in range(0, len(order), batch_size):
        inputs, labels = rows.batch(order[start : start + batch_size])
        if len(inputs) < 2:  # batch normalisation has no variance of a single shower
            continue
        inputs = inputs if turn is None else turn(inputs, generator)
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.binary_cross_entropy_with_logits(network(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    if not torch.isfinite(loss):
        raise DivergenceError("the loss of a classifier is not finite any more; lower its learning rate")


@torch.no_grad()
def _logits(network: nn.Module, rows: LabelledRows) -> FloatArray:
    network.eval()
    parts = [network(inputs).double().cpu().numpy() for inputs, _ in rows]
    return np.concatenate(parts)


def _measure(
    network: nn.Module,
    rows: LabelledRows,
    calibrator: IsotonicRegression,
    settings: ClassifierSettings,
    seed: int,
    epochs: tuple[int, int],
    split: Split,
) -> ClassifierRun:
    logits, labels = _logits(network, rows), rows.labels
    probabilities = _calibrated(calibrator, logits)
    right = (probabilities > 0.5) == labels
    return ClassifierRun(
        settings,
        seed,
        auc=auc_components(probabilities, labels).estimate,
        raw_auc=auc_components(logits, labels).estimate,
        jsd=jensen_shannon(probabilities, labels),
        accuracy=Estimate(float(right.mean()), float(right.std() / np.sqrt(len(right))), len(right)),
        best_epoch=epochs[0],
        n_epochs=epochs[1],
        sizes={part: len(split.reference[part]) for part in PARTS},
        n_unused=split.n_unused,
    )


def _calibrated(calibrator: IsotonicRegression, logits: FloatArray) -> FloatArray:
    predicted: FloatArray = np.asarray(calibrator.predict(_sigmoid(logits)), dtype=np.float64)
    return np.clip(predicted, _CLIP, 1 - _CLIP)


def _sigmoid(logits: FloatArray) -> FloatArray:
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def _network(sample: ClassifierInput, settings: ClassifierSettings, generator: torch.Generator) -> nn.Module:
    if settings.kind != "cnn":
        return Perceptron(sample.n_inputs, settings.hidden, generator)
    if not isinstance(sample, VoxelInput) or not sample.geometry.is_regular:
        raise DataError("the cnn classifier needs showers on a regular grid; use the low and high classifiers")
    shape = sample.geometry.grid_shape
    stem = Stem.patches(shape) if settings.is_patched else Stem()
    return ResidualNetwork(shape, settings.planes, settings.blocks, stem, generator)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"there is no device {name!r} here; use 'cpu' or 'auto'")
    return torch.device(name)


def _check_alike(settings: Sequence[ClassifierSettings]) -> None:
    other = next((one for one in settings if one != settings[0]), None)
    if other is not None:
        first = settings[0]
        raise ConfigError(
            f"a {first.form} {first.kind} classifier and a {other.form} {other.kind} one measure different things; "
            "compare or average results of one kind, form and settings only"
        )


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """Mean over runs, with the error of one run: spread over the runs, or the quoted error if that is larger."""
    values = np.array([estimate.value for estimate in estimates])
    quoted = float(np.sqrt(np.mean([estimate.error**2 for estimate in estimates])))
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), max(quoted, spread), estimates[0].n)
