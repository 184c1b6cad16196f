"""The page is whole and stands alone; the JSON is strict and holds what the page says."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from calo4pqvae.errors import DataError, OutputError
from calo4pqvae.evaluation.features.showers import ShowerFeatures
from calo4pqvae.evaluation.pages.displays import ExampleShower
from calo4pqvae.evaluation.pages.page import Section, mapping_html, page_html, paragraph, table_html
from calo4pqvae.evaluation.pages.report import ReportExtras, build_report, summary_sentence
from calo4pqvae.evaluation.scores import Scores, score_samples


class Page(HTMLParser):
    """Checks nesting, and collects what a page refers to."""

    void = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.void:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def scores(reference: ShowerFeatures, generated: ShowerFeatures) -> Scores:
    return score_samples(reference, {"model <1>": generated, "other": generated.select(np.arange(800))})


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, reference: ShowerFeatures, generated: ShowerFeatures, scores: Scores
) -> Path:
    out = tmp_path_factory.mktemp("report") / "new"
    shower = ExampleShower(5e4, np.random.default_rng(0).exponential(1.0, reference.geometry.n_voxels))
    extras = ReportExtras(
        title="A & B",
        data_note="Showers of a test.",
        examples={"Geant4": shower, "model <1>": shower},
        training_rows=[{"epoch": k, "loss": 1.0 / (k + 1)} for k in range(4)],
        latent_energies={"encoded": np.arange(10.0), "sampled": np.arange(5.0)},
        provenance={"version": "1.2.3", "config": {"training": {"rate": 1e-3}}, "missing": float("nan")},
        sections=[Section("official", "Further metrics", paragraph("Forty-two."), {"answer": np.float64(42.0)})],
    )
    build_report(out, reference, {"model <1>": generated, "other": generated}, scores, extras)
    return out


def test_page_is_well_formed_and_self_contained(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "video"} & set(page.tags)
    assert page.tags.count("img") == 15
    assert len(page.ids) == len(set(page.ids))
    for reference in page.references:
        assert reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in page.ids
    for outside in ("http:", "https:", "url(", "@import"):
        assert outside not in text


def test_page_says_what_it_must(folder: Path, scores: Scores) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for words in ("A &amp; B", "Showers of a test.", "model &lt;1&gt;", "config.training.rate", "Forty-two.", "1.2.3"):
        assert words in text
    assert text.count("&#10003; pass") >= 15
    table = scores.targets["model <1>"]
    assert f"All {len(table.rows)} rows" in text


def test_metrics_are_strict_json_with_every_number(folder: Path, scores: Scores) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert metrics["n_showers"] == {"Geant4": 1500, "model <1>": 3000, "other": 800}
    rows = metrics["targets"]["model <1>"]["rows"]
    assert len(rows) == len(scores.targets["model <1>"].rows)
    assert rows[0]["deviation"]["value"] == scores.targets["model <1>"].rows[0].deviation.value
    assert metrics["summary"] == summary_sentence(scores)
    assert len(metrics["prior_comparison"]) == 6
    assert set(metrics["separation_powers"]["other"]) == {"all", *scores.bins.labels}
    assert metrics["sections"]["official"] == {"answer": 42.0}
    assert metrics["sections"]["training"]["encoded"]["mean"] == 4.5
    assert metrics["provenance"] == {"version": "1.2.3", "config": {"training": {"rate": 1e-3}}, "missing": None}


def test_summary_names_what_fails(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    off = replace(generated, total_energy=generated.total_energy * 1.05)
    sentence = summary_sentence(score_samples(reference, {"model": off}))
    assert "not passed: response (1-4.64 GeV)" in sentence
    assert sentence.startswith("3,000 showers of model against 1,500 Geant4 showers")


def test_passing_summary(scores: Scores) -> None:
    n_rows = len(scores.targets["model <1>"].rows)
    assert summary_sentence(scores).endswith(f"all {n_rows} checks of the acceptance table pass.")


def test_unwritable_folder_is_one_clear_error(
    tmp_path: Path,
    reference: ShowerFeatures,
    generated: ShowerFeatures,
    scores: Scores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for section in ("_energies_section", "_shapes_section", "_prior_section"):  # spare the time of their figures
        monkeypatch.setattr(
            f"calo4pqvae.evaluation.pages.report.{section}", lambda *_, name=section: Section(name, name, paragraph(""))
        )
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        build_report(blocker / "out", reference, {"model <1>": generated}, scores)
    assert blocker.read_text() == "in the way"


def test_energies_that_do_not_match_are_a_warning(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    skewed = generated.select(np.argsort(generated.incident_energy)[600:])
    found = score_samples(reference, {"good": generated, "skewed": skewed})
    assert len(found.warnings) == 1
    assert "incident energies of skewed" in found.warnings[0]


def test_scores_refuse_what_cannot_be_compared(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    with pytest.raises(DataError, match="only 99 showers"):
        score_samples(reference, {"model": generated.select(np.arange(99))})
    with pytest.raises(DataError, match="no generated sample"):
        score_samples(reference, {})
    in_gev = replace(generated, incident_energy=generated.incident_energy / 1e3)
    with pytest.raises(DataError, match="check that energies are in MeV"):
        score_samples(reference, {"model": in_gev})


def test_parts_of_a_page_escape_their_text() -> None:
    assert table_html([{"<a>": "x & y"}]).count("&lt;a&gt;") == 1
    assert "x &amp; y" in table_html([{"<a>": "x & y"}])
    assert "nothing to show" in table_html([])
    assert 'class="fail"' in table_html([{"result": "FAIL"}])
    assert "<b>" not in mapping_html({"a": {"<b>": "<b>"}})
    assert Page(page_html("t", paragraph("<i>", "note"), [Section("s", "S", "")])).open == []
