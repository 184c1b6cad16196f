#!/usr/bin/env python3
"""Proves that constraints.txt resolves against the package index alone, for every interpreter that is asked for.

A wheel that lies ready on a machine proves nothing: configuration files, find-links and extra indexes of pip are
switched off, nothing is installed, and what is installed already does not count. Only the metadata of wheels is read,
where the index or its server can give it alone. From the root of the project:

    python tools/resolve_constraints.py                        # python3.11, 3.12 and 3.13, where they are found
    python tools/resolve_constraints.py python3.12 ./some/bin/python

Exit code 1 if one does not resolve, 2 if none is there.

Usage: python tools/resolve_constraints.py [PYTHON ...]
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = ("python3.11", "python3.12", "python3.13")
GROUPS = ("dev", "docs", "bench")
WANTED = (
    "-c",
    "constraints.txt",
    "-e",
    ".[qpu,gpu,tensorboard]",
    *(word for group in GROUPS for word in ("--group", group)),
)
REACHING = ("INDEX_URL", "TRUSTED_HOST", "CERT", "CLIENT_CERT", "PROXY", "DEFAULT_TIMEOUT", "TIMEOUT", "RETRIES")
"""Settings of pip that say how the index is reached, and nothing else: these stay."""


def bare_environment() -> dict[str, str]:
    """The environment without anything that points pip to files of this machine."""
    reaching = {f"PIP_{name}" for name in REACHING}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name in reaching}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def resolve(python: str, wanted: tuple[str, ...] = WANTED) -> subprocess.CompletedProcess[str]:
    """Lets pip resolve what the Makefile installs and all extras, by a fresh environment of an interpreter.

    Args:
        python: The interpreter.
        wanted: What shall be installed, as arguments of pip.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True, capture_output=True)
        pip = [str(Path(folder) / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        started = subprocess.run(
            [*pip, "--upgrade", "pip>=25.1", "-c", "constraints.txt"],
            cwd=ROOT, env=bare_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if started.returncode:
            return started
        return subprocess.run(
            [*pip, "--use-feature=fast-deps", "--dry-run", "--ignore-installed", *wanted],
            cwd=ROOT, env=bare_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip


def main() -> None:
    """Resolves for every interpreter and says what came of it."""
    asked = sys.argv[1:] or [name for name in NAMES if works(name)]
    for name in NAMES if not sys.argv[1:] else ():
        if name not in asked:
            print(f"{name}: not here, not asked")
    if not asked:
        print("name an interpreter")
        raise SystemExit(2)
    failed = False
    for python in asked:
        done = resolve(python)
        told = f"pip ended with {done.returncode}: {done.stdout.strip()} {done.stderr.strip()}"
        print(f"{python}: {'resolves' if done.returncode == 0 else told}", flush=True)
        failed |= done.returncode != 0
    raise SystemExit(1 if failed else 0)


def works(name: str) -> bool:
    """Whether an interpreter of this name starts."""
    path = shutil.which(name)
    return path is not None and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
