import json
import math
from pathlib import Path

import pytest
import torch

from calo4pqvae.config import load_config
from calo4pqvae.errors import CheckpointError, OutputError
from calo4pqvae.workshop.rundir import RunDirectory

CONFIG = load_config("demo", ["training.seed=7"])


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs" / "one", CONFIG)


def test_a_run_keeps_its_configuration(run: RunDirectory) -> None:
    assert RunDirectory.open(run.path).config() == CONFIG


def test_a_run_is_not_replaced_by_accident(run: RunDirectory) -> None:
    run.save_tensors("autoencoder", {"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"already holds a run: resume it \(--resume\)"):
        RunDirectory.create(run.path, load_config("demo"))
    assert run.config() == CONFIG
    assert run.has("autoencoder")


def test_a_replaced_run_starts_empty(run: RunDirectory) -> None:
    for name in ("checkpoint", "autoencoder", "prior", "posterior", "split"):
        run.save_tensors(name, {"a": torch.ones(1)})
    run.append_metrics({"a": 1})
    run.write_provenance({"seed": 7})
    other = load_config("demo", ["training.seed=8"])
    again = RunDirectory.create(run.path, other, replace=True)
    assert again.config() == other
    assert [path.name for path in run.path.iterdir()] == ["config.toml"]
    assert (again.metrics(), again.provenance()) == ([], {})


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match=r"is no run directory: it has no config\.toml"):
            RunDirectory.open(path)


def test_a_damaged_configuration_is_a_checkpoint_error(run: RunDirectory) -> None:
    run.config_path.write_text("[training]\nepoch = 3\n")
    with pytest.raises(CheckpointError, match=r"the configuration of the run .* 'training\.epoch'"):
        run.config()


def test_tensors_and_notes_come_back_bit_for_bit(run: RunDirectory) -> None:
    tensors = {
        "weights.a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "bits": torch.tensor([[0, 1], [1, 1]], dtype=torch.uint8),
        "exact": torch.tensor(math.pi, dtype=torch.float64),
        "turned": torch.arange(6).view(2, 3).T,
        "nothing": torch.zeros(0, 5),
        "learned": torch.nn.Parameter(torch.ones(2)),
    }
    run.save_tensors("checkpoint", tensors, stage="networks", n_rows="12")
    found, notes = run.load_tensors("checkpoint")
    assert notes == {"stage": "networks", "n_rows": "12"}
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())
    run.save_tensors("split", {"a": torch.ones(1)})
    assert run.load_tensors("split")[1] == {}
    assert not list(run.path.glob(".*"))


def test_absent_and_damaged_tensors_are_told_apart(run: RunDirectory) -> None:
    assert not run.has("prior")
    with pytest.raises(CheckpointError, match=r"has no prior\.safetensors: the training has not come that far"):
        run.load_tensors("prior")
    run.save_tensors("prior", {"a": torch.ones(1000)})
    assert run.has("prior")
    whole = run.tensor_path("prior").read_bytes()
    for content in (whole[:-100], whole[:3], b"", b"\xff" * 64):
        run.tensor_path("prior").write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged"):
            run.load_tensors("prior")


def test_metrics_are_rows_in_order(run: RunDirectory) -> None:
    assert run.metrics() == []
    rows = [{"epoch": epoch, "loss": 1 / (epoch + 1), "note": "ü"} for epoch in range(5)]
    for row in rows:
        run.append_metrics(row)
    assert run.metrics() == rows
    run.keep_metrics(3)
    assert run.metrics() == rows[:3]
    run.append_metrics(rows[4])
    assert run.metrics() == [*rows[:3], rows[4]]


def test_a_row_cut_short_by_a_killed_process_is_left_out(run: RunDirectory) -> None:
    run.append_metrics({"epoch": 0})
    with run.metrics_path.open("a") as file:
        file.write('{"epoch": 1, "lo')
    assert run.metrics() == [{"epoch": 0}]
    run.keep_metrics(1)
    run.append_metrics({"epoch": 1})
    assert run.metrics() == [{"epoch": 0}, {"epoch": 1}]


def test_damaged_metrics_are_a_checkpoint_error(run: RunDirectory) -> None:
    run.metrics_path.write_text('{"epoch": 0}\nnonsense\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
        run.metrics()


def test_metrics_hold_no_nan_and_need_a_place(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="JSON"):
        run.append_metrics({"loss": math.nan})
    assert run.metrics() == []
    run.metrics_path.mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        run.append_metrics({"loss": 1.0})


def test_provenance_comes_back(run: RunDirectory) -> None:
    assert run.provenance() == {}
    content = {"seed": 7, "dropped": {"negative": 2}, "origin": "here"}
    run.write_provenance(content)
    assert run.provenance() == content
    assert json.loads(run.provenance_path.read_text()) == content
    run.provenance_path.write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        run.provenance()


def test_a_run_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match="cannot write"):
        RunDirectory.create(tmp_path / "file" / "run", CONFIG)
