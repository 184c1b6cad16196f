"""docs/studies.md: made from results by a tool, with every study in it and figures that are small."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from calo4pqvae.studies.frame.registry import STUDIES
from tests.studies.frame.test_study import COINS, CoinSettings

ROOT = Path(__file__).parents[2]
IMAGE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("studies_page", ROOT / "tools" / "studies_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_is_made_from_results(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calo4pqvae.studies.frame.index.STUDIES", {"coins": "nowhere"})
    COINS.run(CoinSettings(), tmp_path / "out", 1)
    stale = tmp_path / "docs" / "figures" / "studies" / "old.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["studies_page.py", str(tmp_path / "out"), str(tmp_path / "docs")])
    tool.main()
    text = (tmp_path / "docs" / "studies.md").read_text(encoding="utf-8")
    stored = json.loads((tmp_path / "out" / "coins" / "result.json").read_text(encoding="utf-8"))
    assert stored["text"][0] in text
    assert "`calo4pqvae study coins --seed 1`" in text
    assert IMAGE.findall(text) == ["figures/studies/coins-throws.png"]
    assert not stale.exists()


def test_studies_without_a_result_may_stay_as_they_are(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calo4pqvae.studies.frame.index.STUDIES", {"coins": "nowhere"})
    COINS.run(CoinSettings(), tmp_path / "out", 1)
    docs = tmp_path / "docs"
    figures = docs / "figures" / "studies"
    figures.mkdir(parents=True)
    kept, gone = figures / "relaxation-times.png", figures / "variants-old.png"
    for figure in (kept, gone):
        figure.write_bytes(b"")
    part = "## Relaxation\n\n`calo4pqvae study relaxation --seed 1` (5 s)\n\nAs it was.\n"
    (docs / "studies.md").write_text(f"# Studies\n\nOld.\n\n{part}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["studies_page.py", str(tmp_path / "out"), str(docs), "--keep"])
    tool.main()
    text = (docs / "studies.md").read_text(encoding="utf-8")
    assert part in text
    assert "`calo4pqvae study coins --seed 1`" in text
    assert "Old." not in text
    assert (kept.exists(), gone.exists()) == (True, False)


def test_large_figures_are_made_small(tool: ModuleType, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (500, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    tool.write_smaller(tmp_path / "noise.png", tmp_path / "small.png")
    assert (tmp_path / "noise.png").stat().st_size > 1_000_000
    assert (tmp_path / "small.png").stat().st_size < tool.MOST_BYTES


def test_nothing_in_a_text_is_markdown(tool: ModuleType) -> None:
    assert tool.escaped("a*b_c [d](e) <f> $g$ `h`\n i") == r"a\*b\_c \[d\](e) \<f\> \$g\$ \`h\` i"


def test_the_documentation_shows_studies_with_their_figures() -> None:
    page = ROOT / "docs" / "studies.md"
    text = page.read_text(encoding="utf-8")
    figures = IMAGE.findall(text)
    named = re.findall(r"^`calo4pqvae study (\S+) ", text, re.MULTILINE)
    assert len(named) >= 6
    assert named == [name for name in STUDIES if name in named], "another order than that of the registry"
    for name in named:
        assert any(figure.startswith(f"figures/studies/{name}-") for figure in figures)
    for figure in figures:
        assert 1000 < (page.parent / figure).stat().st_size < 150 * 1024
    shown = {Path(figure).name for figure in figures}
    assert {path.name for path in (page.parent / "figures" / "studies").glob("*.png")} == shown
