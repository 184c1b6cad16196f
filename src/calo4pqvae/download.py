"""Downloads that can be interrupted: checked against size and checksum, resumed where they stopped.

A file is checked against its checksum before it gets its name. Until then its bytes lie in ``NAME.part``; an
interrupted download leaves that file, and the next one asks the server for the rest (an HTTP range request) or, where
the server cannot do that, begins anew. A file that is already complete is not downloaded again.
"""

import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pooch

from calo4pqvae.errors import FetchError, OutputError

__all__ = ["Progress", "RemoteFile", "open_url", "read_all", "retrieve"]

Progress = Callable[[str, int, int], None]
"""Called as a file comes in, with its name, the bytes that are there and the bytes that it will have."""

BLOCK_BYTES = 1 << 18
PARTIAL_CONTENT = 206


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server: its name, where it is, its size in bytes and its checksum as ``algorithm:digits``."""

    name: str
    url: str
    size: int
    checksum: str


def retrieve(remote: RemoteFile, folder: Path, progress: Progress | None = None, timeout: float = 30.0) -> Path:
    """Downloads a file, or the rest of it, unless it is there already.

    Args:
        remote: The file.
        folder: Where it goes; made if it is missing.
        progress: Told about every block that comes in.
        timeout: Seconds to wait for an answer, or for the next block.

    Returns:
        The file, complete and checked.

    Raises:
        FetchError: If the server cannot be reached, the connection breaks, or the file is not what was announced.
        OutputError: If the folder cannot be written.
    """
    downloader = _Resuming(remote, folder / f"{remote.name}.part", progress, timeout)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet_pooch():
            path = pooch.retrieve(
                remote.url, known_hash=remote.checksum, fname=remote.name, path=folder, downloader=downloader
            )
    except ValueError as error:  # what pooch raises on a wrong checksum, after it has removed the file
        raise FetchError(
            f"{remote.name} did not match its checksum {remote.checksum} and was removed; fetch it again"
        ) from error
    except OSError as error:
        raise _output_error(folder, error) from error
    return Path(path)


def open_url(url: str, headers: dict[str, str], timeout: float) -> http.client.HTTPResponse:
    """Asks a server.

    Raises:
        FetchError: If it cannot be reached or refuses.
    """
    try:
        request = urllib.request.Request(url, headers=headers)
        return cast(http.client.HTTPResponse, urllib.request.urlopen(request, timeout=timeout))
    except urllib.error.HTTPError as error:
        with error:
            raise FetchError(f"{url} answers {error.code} {error.reason}; try again later") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchError(
            f"cannot reach {url} ({reason}); is there a network? connect and try again, or bring the files by hand"
        ) from error


def read_all(response: http.client.HTTPResponse, url: str) -> bytes:
    """The whole answer.

    Raises:
        FetchError: If the connection breaks.
    """
    try:
        return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"the connection to {url} broke ({error}); try again") from error


class _Resuming:
    """A downloader for pooch that goes on where an earlier one was stopped."""

    def __init__(self, remote: RemoteFile, part: Path, progress: Progress | None, timeout: float) -> None:
        self.remote = remote
        self.part = part
        self.progress = progress
        self.timeout = timeout

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        done = self.part.stat().st_size if self.part.exists() else 0
        if done > self.remote.size:
            self.part.unlink()
            done = 0
        if done < self.remote.size or done == 0:
            done = self._receive(url, done)
        if done != self.remote.size:
            raise FetchError(
                f"the download of {self.remote.name} stopped at {done} of {self.remote.size} bytes; fetch again to "
                "go on from there"
            )
        os.replace(self.part, output_file)  # noqa: PTH105

    def _receive(self, url: str, done: int) -> int:
        headers = {"Range": f"bytes={done}-"} if done else {}
        with open_url(url, headers, self.timeout) as response:
            if done and not _continues_at(response, done):
                done = 0
            with self.part.open("ab" if done else "wb") as file:
                while block := self._next_block(response):
                    file.write(block)
                    done += len(block)
                    if self.progress is not None:
                        self.progress(self.remote.name, done, self.remote.size)
        return done

    def _next_block(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read1(BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(
                f"the connection broke while {self.remote.name} came in ({error}); fetch again to go on from there"
            ) from error


def _continues_at(response: http.client.HTTPResponse, start: int) -> bool:
    """Whether the server sends the rest from ``start``; otherwise it sends the whole file."""
    sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == PARTIAL_CONTENT and sent is not None and int(sent[1]) == start


def _output_error(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write into {folder}: {error.strerror or error}; choose another folder or free some space"
    )


@contextmanager
def _quiet_pooch() -> Iterator[None]:
    """Keeps pooch from announcing downloads on standard error; progress is told by the callback."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
