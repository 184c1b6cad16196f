"""Downloads of the official CaloChallenge data sets.

The data sets are Zenodo records with a DOI. The list of files, their sizes and their checksums are taken from the
record itself, so that no copy of them can grow stale here. A download that was interrupted goes on where it stopped
(:mod:`~calo4pqvae.download`).
"""

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from calo4pqvae.download import Progress, RemoteFile, open_url, read_all, retrieve
from calo4pqvae.errors import FetchError

__all__ = ["RECORDS", "Record", "fetch", "list_files"]

ZENODO = "https://zenodo.org"


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
    with open_url(url, {}, timeout) as response:
        text = read_all(response, url)
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
    return [retrieve(remote, Path(folder), progress, timeout) for remote in list_files(name, base_url, timeout)]


def _remote_file(entry: Any) -> RemoteFile:  # noqa: ANN401
    remote = RemoteFile(entry["key"], entry["links"]["self"], int(entry["size"]), entry["checksum"])
    has_plain_name = re.fullmatch(r"\w[\w.-]*", remote.name)
    has_checksum = re.fullmatch(r"(md5|sha\d+):[0-9a-f]+", remote.checksum)
    if not (has_plain_name and has_checksum and re.match(r"https?://", remote.url)):
        raise ValueError(f"{remote} cannot be fetched")
    return remote
