"""The page is whole and stands alone; the JSON is strict and holds what the page says."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from calo4pqvae.errors import DataError, OutputError
from calo4pqvae.evaluation.features.screening import Sample
from calo4pqvae.evaluation.metric import METRICS, Measured
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.pages.displays import ExampleShower
from calo4pqvae.evaluation.pages.page import Section, mapping_html, page_html, paragraph, table_html
from calo4pqvae.evaluation.pages.report import ReportExtras, build_report
from calo4pqvae.evaluation.pages.verdict import verdict
from calo4pqvae.evaluation.referee import judge_samples
from calo4pqvae.evaluation.result import Evaluation, RefereeRow
from calo4pqvae.evaluation.settings import RefereeSettings
from calo4pqvae.showers.geometry import Geometry
from tests.evaluation.conftest import Showers
from tests.evaluation.samples import written_sample


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


SETTINGS = RefereeSettings(groups=("separation",))


@pytest.fixture(scope="module")
def samples(
    tmp_path_factory: pytest.TempPathFactory, tiny: Geometry, reference_showers: Showers, generated_showers: Showers
) -> dict[str, Sample]:
    folder = tmp_path_factory.mktemp("samples")
    other = (generated_showers[0][:800], generated_showers[1][:800])
    made = {"reference": reference_showers, "model <1>": generated_showers, "other": other}
    return {name: written_sample(tiny, folder, f"file {k}", *made[name]) for k, name in enumerate(made)}


@pytest.fixture(scope="module")
def found(samples: dict[str, Sample]) -> Evaluation:
    return judge_samples(samples["reference"], models(samples), SETTINGS, context={"command": "calo4pqvae evaluate"})


def models(samples: dict[str, Sample]) -> dict[str, Sample]:
    return {name: sample for name, sample in samples.items() if name != "reference"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, samples: dict[str, Sample], found: Evaluation) -> Path:
    out = tmp_path_factory.mktemp("report") / "new"
    reference = samples["reference"].features
    shower = ExampleShower(5e4, np.random.default_rng(0).exponential(1.0, reference.geometry.n_voxels))
    extras = ReportExtras(
        title="A & B",
        data_note="Showers of a test.",
        examples={"Geant4": [shower], "model <1>": [shower]},
        training_rows=[{"epoch": k, "train": {"loss": 1.0}, "validation": {"loss": 2.0 - k}} for k in range(4)],
        latent_energies={"encoded": np.arange(10.0), "sampled": np.arange(5.0)},
        provenance={"version": "1.2.3", "config": {"training": {"rate": 1e-3}}, "missing": float("nan")},
        sections=[Section("official", "Further metrics", paragraph("Forty-two."), {"answer": np.float64(42.0)})],
    )
    generated = {name: sample.features for name, sample in models(samples).items()}
    build_report(out, reference, generated, found, extras)
    return out


def test_page_is_well_formed_and_self_contained(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "video"} & set(page.tags)
    assert page.tags.count("img") == 18
    assert len(page.ids) == len(set(page.ids))
    for reference in page.references:
        assert reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in page.ids
    for outside in ("http:", "https:", "url(", "@import"):
        assert outside not in text


def test_page_says_what_it_must(folder: Path, found: Evaluation) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for words in ("A &amp; B", "Showers of a test.", "model &lt;1&gt;", "config.training.rate", "Forty-two.", "1.2.3"):
        assert words in text
    assert text.count("&#10003; pass") >= 15
    table = found.samples["model <1>"].acceptance
    assert f"All {len(table.rows)} rows" in text
    assert "no sign of overfitting" in text
    assert "not known whether one can tell them from Geant4" in text
    order = [text.index(f'<section id="{name}">') for name in ("pictures", "metrics", "targets", "provenance")]
    assert order == sorted(order)
    assert text.index('class="summary"') < order[0]


def test_metrics_are_strict_json_with_every_number(folder: Path, found: Evaluation) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert {name: sample["n_showers"] for name, sample in metrics["samples"].items()} == {
        "model <1>": 3000,
        "other": 800,
    }
    rows = metrics["samples"]["model <1>"]["acceptance"]["rows"]
    expected = found.samples["model <1>"].acceptance.rows
    assert len(rows) == len(expected)
    assert rows[0]["deviation"]["value"] == expected[0].deviation.value
    assert metrics["summary"] == " ".join(verdict(found))
    assert [len(sample["layer_fluctuations"]) for sample in metrics["samples"].values()] == [3, 3]
    assert set(metrics["samples"]["other"]["separation_powers_by_energy"]) == set(found.bins.labels)
    assert metrics["sections"]["official"] == {"answer": 42.0}
    assert metrics["sections"]["training"]["encoded"]["mean"] == 4.5
    own = {"version": "1.2.3", "config": {"training": {"rate": 1e-3}}, "missing": None}
    assert own.items() <= metrics["provenance"].items()
    assert metrics["provenance"]["command"] == "calo4pqvae evaluate"
    assert metrics["resolution"]["Geant4"]["a_per_sqrt_gev"]["n"] == 9


def test_verdict_names_what_fails(samples: dict[str, Sample]) -> None:
    sound = samples["model <1>"]
    off = replace(sound, features=replace(sound.features, total_energy=sound.features.total_energy * 1.05))
    [sentence, *_] = verdict(judge_samples(samples["reference"], {"model": off}, RefereeSettings(groups=())))
    assert "not passed: response (1-4.64 GeV)" in sentence
    assert sentence.startswith("3,000 showers of model against 1,500 Geant4 showers")


def test_verdict_when_all_passes(found: Evaluation) -> None:
    n_rows = len(found.samples["model <1>"].acceptance.rows)
    opening, judged, farthest = verdict(found)
    assert opening.endswith(f"all {n_rows} checks of the acceptance table pass.")
    assert "No classifier looked at them" in judged
    assert "times its floor at 750 showers a side" in farthest


def test_verdict_on_what_classifiers_say(found: Evaluation) -> None:
    def row(key: str, value: float) -> RefereeRow:
        floor = Estimate(0.5, 0.01, 750)
        measured = Measured(Estimate(value, 0.01, 1500), "x", matched=Estimate(value, 0.01, 750), floor=floor)
        return RefereeRow(METRICS[key], measured, 1, (1500, 3000))

    def judged(*rows: RefereeRow) -> str:
        main = replace(found.samples[found.main], rows=rows)
        return verdict(replace(found, samples={found.main: main}))[1]

    told = judged(row("auc_low", 0.55), row("auc_cnn", 0.9))
    assert told.startswith(
        "They can be told from Geant4, by the CNN classifier: AUC 0.900 ± 0.010 at 750 showers a side"
    )
    assert "Geant4 against itself gives 0.500 ± 0.010" in told
    assert judged(row("auc_low", 0.52)).startswith(
        "No classifier here can tell them from Geant4; the sharpest is the low-level"
    )


def test_unwritable_folder_is_one_clear_error(
    tmp_path: Path, samples: dict[str, Sample], found: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for section in (
        "_energies_section",
        "_shapes_section",
        "_prior_section",
        "_pictures_section",
    ):  # spare the time of their figures
        monkeypatch.setattr(
            f"calo4pqvae.evaluation.pages.report.{section}", lambda *_, name=section: Section(name, name, paragraph(""))
        )
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    generated = {"model <1>": samples["model <1>"].features}
    with pytest.raises(OutputError, match="cannot write"):
        build_report(blocker / "out", samples["reference"].features, generated, found)
    assert blocker.read_text() == "in the way"


def test_energies_that_do_not_match_are_a_warning(samples: dict[str, Sample]) -> None:
    sound = samples["model <1>"]
    skewed = replace(sound, features=sound.features.select(np.argsort(sound.features.incident_energy)[600:]))
    found = judge_samples(samples["reference"], {"good": sound, "skewed": skewed}, RefereeSettings(groups=()))
    assert len(found.warnings) == 1
    assert "incident energies of skewed" in found.warnings[0]


def test_what_cannot_be_compared_is_refused(samples: dict[str, Sample]) -> None:
    reference, sound = samples["reference"], samples["model <1>"]
    few = replace(sound, features=sound.features.select(np.arange(99)))
    with pytest.raises(DataError, match="only 99 showers"):
        judge_samples(reference, {"model": few}, SETTINGS)
    with pytest.raises(DataError, match="no generated sample"):
        judge_samples(reference, {}, SETTINGS)
    in_gev = replace(sound, features=replace(sound.features, incident_energy=sound.features.incident_energy / 1e3))
    with pytest.raises(DataError, match="check that energies are in MeV"):
        judge_samples(reference, {"model": in_gev}, SETTINGS)


def test_parts_of_a_page_escape_their_text() -> None:
    assert table_html([{"<a>": "x & y"}]).count("&lt;a&gt;") == 1
    assert "x &amp; y" in table_html([{"<a>": "x & y"}])
    assert "nothing to show" in table_html([])
    assert 'class="fail"' in table_html([{"result": "FAIL"}])
    assert "<b>" not in mapping_html({"a": {"<b>": "<b>"}})
    assert Page(page_html("t", paragraph("<i>", "note"), [Section("s", "S", "")])).open == []
