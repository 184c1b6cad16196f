"""Downloads of the official CaloChallenge data sets.

The data sets are Zenodo records with a DOI. The list of files, their sizes and their checksums are taken from the
record itself, so that no copy of them can grow stale here. A file is checked against its checksum before it gets
its name. Until then its bytes lie in ``NAME.part``; an interrupted download leaves that file, and the next one
asks the server for the rest (an HTTP range request) or, where the server cannot do that, begins anew. A file that
is already complete is not downloaded again.
"""

import fnmatch
import http.client
import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pooch

from calo4pqvae.errors import FetchError, OutputError

__all__ = ["RECORDS", "Progress", "Record", "RemoteFile", "fetch", "list_files"]

Progress = Callable[[str, int, int], None]
"""Called as a file comes in, with its name, the bytes that are there and the bytes that it will have."""

ZENODO = "https://zenodo.org"
BLOCK_BYTES = 1 << 18
PARTIAL_CONTENT = 206


@dataclass(frozen=True)
class Record:
    """A published data set.

    Args:
        number: Number of the Zenodo record; that of a concept stands for its newest version.
        pattern: Which of the record's files belong to the data set, as a shell pattern.
    """

    number: int
    pattern: str = "*.hdf5"

    @property
    def doi(self) -> str:
        """The digital object identifier."""
        return f"10.5281/zenodo.{self.number}"


RECORDS: Mapping[str, Record] = MappingProxyType(
    {
        "ds1-photons": Record(8099322, "*photon*.hdf5"),
        "ds1-pions": Record(8099322, "*pion*.hdf5"),
        "ds2": Record(6366270),
        "ds3": Record(6366323),
    }
)
"""The official data sets by the names of their geometries; read-only."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a record: its name, where it is, its size in bytes and its checksum as ``algorithm:digits``."""

    name: str
    url: str
    size: int
    checksum: str


def list_files(name: str, base_url: str = ZENODO, timeout: float = 30.0) -> list[RemoteFile]:
    """Asks the record of a data set for its files.

    Args:
        name: A key of :data:`RECORDS`.
        base_url: Root of the server.
        timeout: Seconds to wait for an answer.

    Raises:
        FetchError: If there is no such name, the server cannot be reached, or its answer makes no sense.
    """
    if name not in RECORDS:
        raise FetchError(f"there is no data set {name!r}; choose among {', '.join(RECORDS)}")
    record = RECORDS[name]
    url = f"{base_url.rstrip('/')}/api/records/{record.number}"
    with _open(url, {}, timeout) as response:
        text = _read(response, url)
    try:
        entries = json.loads(text)["files"]
        files = [_remote_file(entry) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(
            f"the answer of {url} is no Zenodo record with files, sizes and checksums; try again later, or get "
            f"doi.org/{record.doi} by hand"
        ) from error
    chosen = [file for file in files if fnmatch.fnmatch(file.name, record.pattern)]
    if not chosen:
        raise FetchError(
            f"the record {url} has no file like {record.pattern} but {[file.name for file in files]}; get "
            f"doi.org/{record.doi} by hand"
        )
    return chosen


def fetch(
    name: str,
    folder: Path,
    base_url: str = ZENODO,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> list[Path]:
    """Downloads an official data set; may be interrupted and called again.

    Args:
        name: A key of :data:`RECORDS`.
        folder: Where the files go; made if it is missing.
        base_url: Root of the server that holds the record.
        progress: Told about every block that comes in.
        timeout: Seconds to wait for an answer, or for the next block.

    Returns:
        The files, complete and checked.

    Raises:
        FetchError: If the name is unknown, the server cannot be reached, the connection breaks, or a file is not
            what the record announces.
        OutputError: If the folder cannot be written.
    """
    return [_fetch_file(remote, Path(folder), progress, timeout) for remote in list_files(name, base_url, timeout)]


def _fetch_file(remote: RemoteFile, folder: Path, progress: Progress | None, timeout: float) -> Path:
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
        with _open(url, headers, self.timeout) as response:
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


def _open(url: str, headers: dict[str, str], timeout: float) -> http.client.HTTPResponse:
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


def _read(response: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"the connection to {url} broke ({error}); try again") from error


def _continues_at(response: http.client.HTTPResponse, start: int) -> bool:
    """Whether the server sends the rest from ``start``; otherwise it sends the whole file."""
    sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == PARTIAL_CONTENT and sent is not None and int(sent[1]) == start


def _remote_file(entry: Any) -> RemoteFile:  # noqa: ANN401
    remote = RemoteFile(entry["key"], entry["links"]["self"], int(entry["size"]), entry["checksum"])
    has_plain_name = re.fullmatch(r"\w[\w.-]*", remote.name)
    has_checksum = re.fullmatch(r"(md5|sha\d+):[0-9a-f]+", remote.checksum)
    if not (has_plain_name and has_checksum and re.match(r"https?://", remote.url)):
        raise ValueError(f"{remote} cannot be fetched")
    return remote


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
