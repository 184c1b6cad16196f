"""A run directory: everything that a training leaves, and nothing that is pickled.

* ``config.toml``: the resolved configuration;
* ``provenance.json``: versions, seed, hash of the data, counts of dropped showers, where the data came from;
* ``split.safetensors``: indices of training and validation showers;
* ``autoencoder.safetensors``: accepted weights and scales of the autoencoder;
* ``prior.safetensors``: graph and parameters of the Boltzmann machine, mean of every latent bit;
* ``posterior.safetensors``: exported posterior bits and their incident energies;
* ``checkpoint.safetensors``: all that is needed to go on bit for bit; removed when the run has ended;
* ``metrics.jsonl``: one row an epoch or a watch of the prior.

Every file is written under a temporary name and renamed, so that a killed process leaves the last whole one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from calo4pqvae.atomic import atomic_path, write_json, write_text
from calo4pqvae.config import Config, load_config
from calo4pqvae.errors import CheckpointError, ConfigError, OutputError

__all__ = ["RunDirectory"]


class RunDirectory:
    """Paths of a run, and reading and writing of what is in it.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: Config, *, replace: bool = False) -> "RunDirectory":
        """Starts a run.

        Args:
            path: The folder, made if missing.
            config: The resolved configuration.
            replace: Start anew where a run stands already.

        Raises:
            CheckpointError: If a run stands there and ``replace`` is False.
            OutputError: If the folder cannot be written.
        """
        run = cls(path)
        if run.config_path.exists() and not replace:
            raise CheckpointError(
                f"{path} already holds a run: resume it (--resume), choose another folder, or start anew (--overwrite)"
            )
        tensors = (run.tensor_path(name) for name in ("checkpoint", "autoencoder", "prior", "posterior", "split"))
        report = (path / name for name in ("report.html", "metrics.json"))
        with atomic_path(run.config_path) as partial:
            partial.write_text(config.to_toml(), encoding="utf-8")
            for old in (run.provenance_path, *tensors, run.metrics_path, *report):
                old.unlink(missing_ok=True)
        return run

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Opens a run that exists.

        Raises:
            CheckpointError: If there is none.
        """
        run = cls(path)
        if not run.config_path.is_file():
            raise CheckpointError(f"{path} is no run directory: it has no config.toml; give the folder of a training")
        return run

    @property
    def config_path(self) -> Path:
        """Where the configuration is."""
        return self.path / "config.toml"

    @property
    def metrics_path(self) -> Path:
        """Where the metrics are."""
        return self.path / "metrics.jsonl"

    @property
    def provenance_path(self) -> Path:
        """Where the provenance is."""
        return self.path / "provenance.json"

    def tensor_path(self, name: str) -> Path:
        """Where the tensors called ``name`` are."""
        return self.path / f"{name}.safetensors"

    def config(self) -> Config:
        """The configuration of the run.

        Raises:
            CheckpointError: If it is damaged.
        """
        try:
            return load_config(self.config_path)
        except ConfigError as error:
            raise CheckpointError(f"the configuration of the run {self.path} cannot be used: {error}") from error

    def write_provenance(self, content: Mapping[str, Any]) -> None:
        """Writes ``provenance.json``."""
        write_json(self.provenance_path, dict(content))

    def provenance(self) -> dict[str, Any]:
        """Reads ``provenance.json``; empty if the run has not come that far."""
        path = self.provenance_path
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged ({error}): train again") from error
        return content

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], **notes: str) -> None:
        """Writes named tensors and notes, whole or not at all.

        Raises:
            OutputError: If they cannot be written.
        """
        content = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        with atomic_path(self.tensor_path(name)) as partial:
            partial.write_bytes(save(content, metadata=notes))

    def load_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Reads named tensors and notes.

        Raises:
            CheckpointError: If the file is missing or damaged.
        """
        path = self.tensor_path(name)
        if not path.is_file():
            raise CheckpointError(
                f"{self.path} has no {path.name}: the training has not come that far; finish it first"
            )
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged ({error}): restore it or train again") from error

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds one row to ``metrics.jsonl``.

        Raises:
            OutputError: If it cannot be written.
        """
        line = json.dumps(row, allow_nan=False) + "\n"
        try:
            with self.metrics_path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise OutputError(
                f"cannot write {self.metrics_path}: {error.strerror or error}; free some space"
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of ``metrics.jsonl``; a last line cut short by a killed process is left out.

        Raises:
            CheckpointError: If the file is damaged.
        """
        if not self.metrics_path.is_file():
            return []
        try:
            lines = self.metrics_path.read_text(encoding="utf-8").splitlines(keepends=True)
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except ValueError as error:
            raise CheckpointError(f"{self.metrics_path} is damaged ({error}): restore it or train again") from error

    def keep_metrics(self, n_rows: int) -> None:
        """Cuts ``metrics.jsonl`` back to its first rows, as they stood at a checkpoint."""
        rows = self.metrics()[:n_rows]
        write_text(self.metrics_path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def has(self, name: str) -> bool:
        """Whether tensors called ``name`` have been written."""
        return self.tensor_path(name).is_file()
