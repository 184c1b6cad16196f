#!/usr/bin/env python3
"""Writes what the documentation says of every module: the listing of docs/architecture.md and the pages of docs/api.

The words are the first sentence of each module's docstring, whole. From the root of the project:

    python tools/module_pages.py          # writes
    python tools/module_pages.py --check  # says what is not up to date, exit code 1

Usage: python tools/module_pages.py [--check]
"""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "calo4pqvae"
PAGE = ROOT / "docs" / "architecture.md"
REFERENCE = ROOT / "docs" / "api"
OPENING, CLOSING = "<!-- folders: written by tools/module_pages.py -->\n", "<!-- end of folders -->\n"
NO_REFERENCE = {"cli"}
"""Folders whose reference is ``calo4pqvae --help``."""


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, without the marks of reStructuredText.

    Raises:
        ValueError: If there is none, or it has no end.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    plain = re.sub(r":\w+:`~?([^`]*)`", lambda role: f"`{role[1].rpartition('.')[2]}`", paragraph).replace("``", "`")
    sentence = re.match(r".*?[.?](?=\s|$)", plain)
    if sentence is None:
        raise ValueError(f"the docstring of {path} does not start with a sentence")
    return sentence[0]


def entries(folder: Path, depth: int) -> Iterator[str]:
    """Lines of the listing for a folder: its modules, then its folders."""
    indent = "  " * depth
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield f"{indent}- `{path.name}`: {first_sentence(path)}"
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield f"{indent}- **`{inner.name}/`**: {first_sentence(inner / '__init__.py')}"
        yield from entries(inner, depth + 1)


def listing(page: str) -> str:
    """The page of the architecture with its listing made anew."""
    before, _, rest = page.partition(OPENING)
    _, _, after = rest.partition(CLOSING)
    return before + OPENING + "\n" + "\n".join(entries(SOURCE, 0)) + "\n\n" + CLOSING + after


def reference() -> dict[str, str]:
    """The pages of the reference by file name: one a folder of the package, and one of the modules beside them."""
    folders = sorted(path.parent for path in SOURCE.glob("*/__init__.py") if path.parent.name not in NO_REFERENCE)
    pages = {f"{folder.name}.md": _page(folder, folder.name, sorted(folder.rglob("*.py"))) for folder in folders}
    root = [path for path in sorted(SOURCE.glob("*.py")) if path.name != "__main__.py"]
    return {"root.md": _page(SOURCE, "calo4pqvae", root), **pages}


def _page(folder: Path, title: str, paths: list[Path]) -> str:
    parts = [f"# {title}\n", f"{first_sentence(folder / '__init__.py')}\n"]
    for path in paths:
        if path.name != "__init__.py":
            name = path.relative_to(folder).as_posix().removesuffix(".py").replace("/", ".")
            module = ".".join(["calo4pqvae", *path.relative_to(SOURCE).with_suffix("").parts])
            parts.append(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n")
    return "\n".join(parts)


def wanted() -> dict[Path, str]:
    """All files that this tool writes, with their text."""
    pages = {REFERENCE / name: text for name, text in reference().items()}
    return {PAGE: listing(PAGE.read_text(encoding="utf-8")), **pages}


def stale() -> list[Path]:
    """Files that are missing, not up to date, or pages of folders that are gone."""
    files = wanted()
    changed = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return changed + [path for path in sorted(REFERENCE.glob("*.md")) if path not in files]


def main() -> None:
    """Writes the files, or checks them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is not up to date")
    found, is_check = stale(), parser.parse_args().check
    files = wanted()
    for path in found:
        print(f"{'not up to date' if is_check else 'written'}: {path.relative_to(ROOT)}")
        if not is_check:
            if path in files:
                path.write_text(files[path], encoding="utf-8")
            else:
                path.unlink()
    raise SystemExit(1 if is_check and found else 0)


if __name__ == "__main__":
    main()
