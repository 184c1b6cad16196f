"""The report in a real browser: every image is drawn, nothing fails, nothing is asked from elsewhere."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from calo4pqvae.evaluation.compare import evaluate_files
from calo4pqvae.evaluation.metrics.frechet import FrechetSettings
from calo4pqvae.evaluation.metrics.kernel_distance import KernelSettings
from calo4pqvae.evaluation.settings import RefereeSettings
from calo4pqvae.showers.geometry import geometry
from tests.small_runs import bundled_rows, write_showers

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_BROWSER = "no Chromium on this machine (chromium, chromium-browser or google-chrome on the PATH)"

# what the page would show to a user, written into the copy as text
PROBE = """<script>window.addEventListener('load', function () {
  var images = Array.from(document.images), out = document.createElement('pre');
  out.id = 'probe';
  var tables = Array.from(document.querySelectorAll('.tablebox'));
  out.textContent = JSON.stringify({
    images: images.length, broken: images.filter(function (i) { return !i.complete || i.naturalWidth === 0; }).length,
    sections: document.querySelectorAll('section').length, wide: document.documentElement.scrollWidth,
    resources: performance.getEntriesByType('resource').filter(function (r) { return /^http/.test(r.name); }).length,
    errors: window.probeErrors, cut: tables.length ? tables[0].scrollWidth - tables[0].clientWidth : 0 });
  document.body.appendChild(out);
});</script>"""
LISTENER = """<script>window.probeErrors = 0;
window.addEventListener('error', function () { window.probeErrors++; }, true);</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    energies, showers = bundled_rows("train", 400)
    files = [
        write_showers(folder / f"{name}.hdf5", energies[part], showers[part])
        for name, part in (("geant4", slice(0, 200)), ("model", slice(200, 400)))
    ]
    settings = RefereeSettings(
        groups=("distances", "separation", "wasserstein"),
        fpd=FrechetSettings(min_samples=100, max_samples=300, num_points=3, num_batches=2),
        kpd=KernelSettings(batch_size=100, num_batches=3),
    )
    return evaluate_files(files[0], {"model": files[1]}, geometry("ds2"), folder / "out", settings=settings).report


def dump(page: Path, folder: Path) -> tuple[str, str]:
    """The document as the browser has it after loading, and what it complains about."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1280,800", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=8000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_page_in_a_browser(report: Path, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8")
    copy = tmp_path / "probed.html"
    copy.write_text(text.replace("<head>", "<head>" + LISTENER).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    document, complaints = dump(copy, tmp_path)
    found = re.search(r'<pre id="probe">(.*?)</pre>', document)
    assert found is not None, complaints
    seen = dict(re.findall(r'"(\w+)":(\d+)', found[1]))
    assert int(seen["images"]) == text.count("<img") >= 15
    assert seen["broken"] == seen["errors"] == seen["resources"] == "0"
    assert int(seen["sections"]) == text.count("<section")
    assert int(seen["wide"]) <= 1280, "the page scrolls sideways on a laptop"
    assert seen["cut"] == "0", "the summary table does not fit a laptop"
    assert "CONSOLE" not in complaints


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
def test_a_broken_image_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    image = '<img src="data:image/png;base64,AAAA">'
    page.write_text(f"<html><head>{LISTENER}</head><body>{image}{PROBE}</body></html>", encoding="utf-8")
    document, _ = dump(page, tmp_path)
    found = re.search(r'<pre id="probe">(.*?)</pre>', document)
    assert found is not None
    assert dict(re.findall(r'"(\w+)":(\d+)', found[1]))["broken"] == "1"
