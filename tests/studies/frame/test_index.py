"""The page of all studies: whole, self-contained, readable, in the order of the registry."""

import base64
import json
import re
from pathlib import Path

import pytest

from calo4pqvae.errors import DataError
from calo4pqvae.studies.frame.index import read_results, write_index
from tests.evaluation.pages.test_browser import BROWSER, LISTENER, NO_BROWSER, PROBE, dump
from tests.studies.frame.test_study import COINS, CoinSettings

ORDER = {"dice": "nowhere", "coins": "nowhere"}


@pytest.fixture(autouse=True)
def studies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calo4pqvae.studies.frame.index.STUDIES", ORDER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    COINS.run(CoinSettings(), tmp_path, 1)
    return tmp_path


def test_everything_is_on_one_page_that_loads_nothing(folder: Path) -> None:
    page = write_index(folder)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert [base64.b64decode(image) for image in images] == [(folder / "coins" / "throws.png").read_bytes()]
    stored = json.loads((folder / "coins" / "result.json").read_text(encoding="utf-8"))
    assert stored["text"][0] in text
    assert "calo4pqvae study coins --seed 1" in text
    for cell in ("share", "1000", f"{stored['numbers']['share']['value']:.4g}"):
        assert f">{cell}<" in text
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == {"coins": stored}


def test_order_is_that_of_the_registry(folder: Path) -> None:
    stored = json.loads((folder / "coins" / "result.json").read_text(encoding="utf-8"))
    (folder / "dice").mkdir()
    stored |= {"study": "dice", "title": "Dice <&> more", "figures": []}
    (folder / "dice" / "result.json").write_text(json.dumps(stored), encoding="utf-8")
    assert [one["study"] for one in read_results(folder)] == ["dice", "coins"]
    text = write_index(folder).read_text(encoding="utf-8")
    assert text.index('id="dice"') < text.index('id="coins"')
    assert "Dice &lt;&amp;&gt; more" in text


def test_numbers_of_all_kinds_become_rows(folder: Path) -> None:
    path = folder / "coins" / "result.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["numbers"] = {
        "deep": {"er": {"value": 2.5, "error": 0.25, "n": 40, "seed": 3}},
        "list": [1.0, 2.123456, 3.0],
        "rows": [{"value": 7.0, "error": None, "n": 1, "seed": None}],
        "word": "glass",
    }
    path.write_text(json.dumps(stored), encoding="utf-8")
    text = write_index(folder).read_text(encoding="utf-8")
    for row in (
        ("deep / er", "2.5", "0.25", "40", "3"),
        ("list", "1, 2.123, 3", "", "", ""),
        ("rows / 0", "7", "", "1", ""),
        ("word", "glass", "", "", ""),
    ):
        wrapped = "".join(f'<td class="wrap">{cell}</td>' for cell in row[:2])
        assert wrapped + "".join(f"<td>{cell}</td>" for cell in row[2:]) in text


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_the_page_fits_a_laptop(folder: Path, tmp_path: Path) -> None:
    path = folder / "coins" / "result.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["numbers"] = {"a long list": [0.123456 * place for place in range(500)]} | stored["numbers"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    text = write_index(folder).read_text(encoding="utf-8").replace("</body>", PROBE + "</body>")
    copy = tmp_path / "probed.html"
    copy.write_text(
        text.replace("<head>", "<head>" + LISTENER).replace("<details>", "<details open>"), encoding="utf-8"
    )
    document, complaints = dump(copy, tmp_path)
    found = re.search(r'<pre id="probe">(.*?)</pre>', document)
    assert found is not None, complaints
    seen = dict(re.findall(r'"(\w+)":(\d+)', found[1]))
    assert (seen["images"], seen["broken"], seen["errors"], seen["resources"]) == ("1", "0", "0", "0")
    assert int(seen["wide"]) <= 1280, "the page scrolls sideways on a laptop"
    assert seen["cut"] == "0", "a table is cut off"


def test_what_is_missing_or_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no result of a study; run one first"):
        write_index(tmp_path / "empty")
    path = folder / "coins" / "result.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-20], encoding="utf-8")
    with pytest.raises(DataError, match="is damaged"):
        write_index(folder)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="lacks study, title"):
        write_index(folder)
    path.write_text(whole, encoding="utf-8")
    (folder / "coins" / "throws.png").unlink()
    with pytest.raises(DataError, match=r"throws\.png is missing; run its study again"):
        write_index(folder)
