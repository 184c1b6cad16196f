#!/usr/bin/env python3
"""Makes docs/studies.md and its figures from a folder of finished studies, as the commands wrote them.

Every text, figure and caption is taken from the results; nothing is written by hand. Figures are made smaller, to less
than 150 KiB each. From the root of the project:

    calo4pqvae study all --quick --out runs/studies
    python tools/studies_page.py runs/studies docs

With ``--keep`` studies that the folder has no result of stay on the page as they are.

Usage: python tools/studies_page.py STUDIES DOCS [--keep]
"""

import argparse
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from calo4pqvae.atomic import atomic_path, write_text
from calo4pqvae.studies.frame.index import read_results
from calo4pqvae.studies.frame.registry import STUDIES

FIGURES = "figures/studies"
MOST_BYTES = 150 * 1024
WIDEST = 1100  # pixels
SMALLER = ((256, 1.0), (64, 1.0), (32, 0.8), (16, 0.7), (16, 0.5))  # colours and size, until a figure is small enough

HEAD = """# Studies

Half of what there is to know about a Boltzmann machine as a prior is not in its samples. Each study below is one
command that gives numbers (`result.json`), figures and a short text written from the numbers.

<!-- parsed only -->
```bash
calo4pqvae study list
calo4pqvae study relaxation --settings
calo4pqvae study relaxation --quick --out runs/studies
calo4pqvae study all --quick --out runs/studies
```

The results lie in a folder a study, and `index.html` beside them shows every figure, number and text on one page that
loads nothing. `--quick` takes minutes on two CPU cores; without it a study takes its full form. `--set KEY=VALUE`
changes a setting. With `all` a study that is finished with equal settings, seed and version is kept unless
`--overwrite` is given, so that the command goes on where it was interrupted; one that fails does not cost the others,
and the exit code tells. `relaxation`, `small-machines` and `high-temperature` take `--set kernel=torch` for sweeps in
plain PyTorch. Shower models and machines of images that studies share are trained once, in `trained/`; `--set run=RUN`
takes a finished shower run instead.

*This page was made by `python tools/studies_page.py` from the results of the commands that it names. Where showers are
mentioned, they are genuine Geant4 showers but not the official data sets of the CaloChallenge, unless the text says
otherwise. The seconds beside a command are its wall time, some of it beside other work.*
"""


def main() -> None:
    """Writes the page and its figures."""
    parser = argparse.ArgumentParser(description="docs/studies.md from a folder of finished studies.")
    parser.add_argument("studies", type=Path, help="folder of the results")
    parser.add_argument("docs", type=Path, help="folder of the documentation")
    parser.add_argument("--keep", action="store_true", help="leave studies without a result as they are")
    arguments = parser.parse_args()
    page, folder = arguments.docs / "studies.md", arguments.docs / FIGURES
    results = {str(result["study"]): result for result in read_results(arguments.studies)}
    missing = [name for name in STUDIES if name not in results]
    kept = sections_of(page.read_text(encoding="utf-8")) if arguments.keep else {}
    for old in folder.glob("*.png"):
        if not any(old.name.startswith(f"{name}-") for name in kept if name in missing):
            old.unlink()
    sections = {name: section(result, arguments.studies, folder) for name, result in results.items()}
    sections |= {name: text for name, text in kept.items() if name in missing}
    order = [*(name for name in STUDIES if name in sections), *(name for name in sections if name not in STUDIES)]
    write_text(page, "\n".join([HEAD, *(sections[name] for name in order)]))
    missing = [name for name in missing if name not in kept]
    if missing:
        print(f"not on the page, since {arguments.studies} has no result of them: {', '.join(missing)}")


def sections_of(page: str) -> dict[str, str]:
    """The parts of a page by the name of their study, which the command under each title has."""
    parts = [f"## {part}" for part in page.split("\n## ")[1:]]
    return {found[1]: part for part in parts if (found := re.search(r"`calo4pqvae study ([a-z-]+)", part))}


def section(result: Mapping[str, Any], studies: Path, folder: Path) -> str:
    """The part of one study; its figures are written on the way."""
    name = str(result["study"])
    lines = [f"## {escaped(str(result['title']))}", ""]
    lines += [f"`{result['command']}` ({result['runtime_s']:.0f} s)", ""]
    for paragraph in result["text"]:
        lines += [escaped(str(paragraph)), ""]
    table = studies / name / "table.txt"
    if table.is_file():
        lines += ["```text", table.read_text(encoding="utf-8").rstrip(), "```", ""]
    for figure in result["figures"]:
        target = f"{name}-{figure['stem']}.png"
        write_smaller(studies / name / f"{figure['stem']}.png", folder / target)
        caption = escaped(str(figure["caption"]))
        lines += [f"![{name}: {figure['stem']}]({FIGURES}/{target})", "", f"*{caption}*", ""]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Text in which nothing is Markdown."""
    return re.sub(r"([\\`*_\[\]<>$|])", r"\\\1", " ".join(text.split()))


def write_smaller(source: Path, target: Path) -> None:
    """A figure with few colours, narrow enough for a page, in less than 150 KiB."""
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    whole = min(1.0, WIDEST / image.width)
    for colours, size in SMALLER:
        shape = (round(image.width * whole * size), round(image.height * whole * size))
        small = image.resize(shape, Image.Resampling.LANCZOS).quantize(
            colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        buffer = io.BytesIO()
        small.save(buffer, format="png", optimize=True)
        if buffer.tell() < MOST_BYTES:
            break
    else:
        raise SystemExit(f"{source} cannot be made smaller than {MOST_BYTES} bytes; draw less in it")
    with atomic_path(target) as partial:
        partial.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
