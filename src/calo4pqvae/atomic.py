"""Outputs that are either complete or absent.

A file is written under a temporary name beside its target and renamed when it is whole. A full disk, a missing
folder or a killed process therefore never damages what stood at the target before.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calo4pqvae.errors import OutputError

__all__ = ["atomic_path", "check_target", "write_json", "write_text"]


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Gives a temporary path that becomes ``target`` when the block ends without an error.

    Args:
        target: Where the finished file shall stand. Its folder is made if it is missing.

    Yields:
        A path in the same folder, to be written by the caller.

    Raises:
        OutputError: If the folder or the file cannot be written; ``target`` is left as it was.
    """
    with _partial(target) as partial:
        yield partial
        partial.replace(target)


def check_target(target: Path) -> None:
    """Refuses a target that could not be written, before work is done for it; what stands there stays as it is.

    Raises:
        OutputError: If a folder of that name is in the way, or its folder cannot be made or written.
    """
    with _partial(target) as partial:
        partial.touch()


def write_text(target: Path, text: str) -> None:
    """Writes ``text`` to ``target``, whole or not at all."""
    with atomic_path(target) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(target: Path, content: Any) -> None:  # noqa: ANN401
    """Writes ``content`` as indented JSON; NaN and infinity are refused with a ``ValueError``."""
    write_text(target, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A temporary path beside a target, gone at the end; what the system refuses is an :class:`OutputError`."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        if target.is_dir():
            raise OutputError(f"cannot write {target}: a folder of that name is in the way")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {target}: {reason}; choose another place or free some space") from error
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder itself may be gone or read-only: there is nothing to tidy then
        return
