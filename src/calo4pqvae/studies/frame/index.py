"""One self-contained page over all studies in a folder: every figure, number and text.

The page is made from what the studies wrote (``result.json`` and the figures), not from memory, so that it can be made
again at any time and shows studies of several days beside each other. All numbers of the page stand together in
``metrics.json`` beside it.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calo4pqvae.atomic import write_json, write_text
from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.pages.page import Section, mapping_html, page_html, paragraph
from calo4pqvae.studies.frame.registry import STUDIES
from calo4pqvae.studies.frame.study import RESULT

__all__ = ["INDEX", "METRICS", "read_results", "write_index"]

INDEX = "index.html"
METRICS = "metrics.json"
_KEYS = ("study", "title", "text", "figures", "numbers", "settings", "seed", "command", "runtime_s", "versions")
_NUMBER_KEYS = {"value", "error", "n", "seed"}
_LONG_COLUMNS = ("number", "value")  # broken into lines where they are too long
_LONGEST_TABLE = 60  # rows of a study's numbers that are shown at once; more are folded away


def write_index(folder: Path) -> Path:
    """Writes the page of all studies in a folder.

    Args:
        folder: Folder with one folder a study.

    Returns:
        The page.

    Raises:
        DataError: If the folder holds no result, or one is damaged.
        OutputError: If the page cannot be written.
    """
    results = read_results(folder)
    sections = [_section(result, folder / str(result["study"])) for result in results]
    total = sum(float(result["runtime_s"]) for result in results)
    lead = paragraph(
        f"Studies of the Boltzmann machine: {len(results)}, with {total:.0f} s of work in all. Every text is written "
        "by the command that made the numbers below it, from these numbers.",
        "summary",
    )
    write_json(folder / METRICS, {str(result["study"]): result for result in results})
    write_text(folder / INDEX, page_html("Studies of the Boltzmann machine", lead, sections))
    return folder / INDEX


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Results of the studies in a folder, in the order of the registry.

    Raises:
        DataError: If there is none, or one is damaged.
    """
    results = [_read(folder / name / RESULT) for name in STUDIES if (folder / name / RESULT).is_file()]
    if not results:
        raise DataError(f"{folder} holds no result of a study; run one first (calo4pqvae study all --out {folder})")
    return results


def _read(path: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in _KEYS if key not in result]
    except (ValueError, TypeError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); run its study again") from error
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; run its study again")
    return result


def _section(result: Mapping[str, Any], folder: Path) -> Section:
    name = str(result["study"])
    parts = [paragraph(f"{result['command']} ({result['runtime_s']:.0f} s)", "note")]
    parts += [paragraph(text) for text in result["text"]]
    parts += [_image_html(folder / f"{one['stem']}.png", str(one["caption"])) for one in result["figures"]]
    rows = _number_rows(result["numbers"])
    parts.append(_folded(f"Numbers ({len(rows)})", _numbers_html(rows), is_open=len(rows) <= _LONGEST_TABLE))
    parts.append(_folded("Settings and versions", mapping_html({**result["settings"], **result["versions"]})))
    return Section(name, str(result["title"]), "\n".join(parts), result["numbers"])


def _numbers_html(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of numbers; series of them are broken into lines."""
    if not rows:
        return paragraph("There is nothing to show here.")
    head = "".join(f'<th scope="col">{html.escape(key)}</th>' for key in rows[0])
    body = "\n".join("<tr>" + "".join(_cell_html(*cell) for cell in row.items()) + "</tr>" for row in rows)
    return f'<div class="tablebox"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cell_html(key: str, cell: str) -> str:
    attribute = ' class="wrap"' if key in _LONG_COLUMNS else ""
    return f"<td{attribute}>{html.escape(cell)}</td>"


def _image_html(path: Path, caption: str) -> str:
    """A figure that was saved, within the page."""
    if not path.is_file():
        raise DataError(f"{path} is missing; run its study again")
    text = html.escape(caption)
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _folded(title: str, body: str, *, is_open: bool = False) -> str:
    return f"<details{' open' if is_open else ''}><summary>{html.escape(title)}</summary>{body}</details>"


def _number_rows(numbers: Mapping[str, Any], prefix: str = "") -> list[dict[str, str]]:
    """Numbers as rows: estimates with their errors, plain values, lists in one cell."""
    rows: list[dict[str, str]] = []
    for key, value in numbers.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and set(value) == _NUMBER_KEYS:
            rows.append(_row(name, value["value"], value["error"], value["n"], value["seed"]))
        elif isinstance(value, Mapping):
            rows += _number_rows(value, f"{name} / ")
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            rows += _number_rows({str(place): one for place, one in enumerate(value)}, f"{name} / ")
        else:
            rows.append(_row(name, value, None, None, None))
    return rows


def _row(name: str, value: object, error: object, n: object, seed: object) -> dict[str, str]:
    return {
        "number": name,
        "value": _told(value),
        "error": _told(error),
        "n": _told(n),
        "seed": _told(seed),
    }


def _told(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_told(one) for one in value)
    return str(value)
