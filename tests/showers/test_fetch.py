import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calo4pqvae.errors import FetchError, OutputError
from calo4pqvae.showers.fetch import RECORDS, fetch, list_files

PHOTONS = np.random.default_rng(0).bytes(1_500_000)
PIONS = b"the pions"


class Handler(BaseHTTPRequestHandler):
    """A Zenodo of one record, which can be told to misbehave."""

    server: "RecordServer"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        if self.path == "/api/records/8099322":
            self.answer(self.server.record())
        elif (content := self.server.files.get(self.path.removeprefix("/content/"))) is not None:
            self.answer_file(content)
        else:
            self.send_error(404)

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer_file(self, content: bytes) -> None:
        start = 0
        if (asked := self.headers.get("Range")) is not None and self.server.knows_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = self.server.break_at or len(content)
        self.wfile.write(content[start:stop])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class RecordServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {"dataset_1_photons_1.hdf5": PHOTONS, "dataset_1_pions_1.hdf5": PIONS, "binning_photons.xml": b"x"}
        self.sums = {name: hashlib.md5(content).hexdigest() for name, content in self.files.items()}
        self.requests: list[tuple[str, str | None]] = []
        self.knows_ranges = True
        self.break_at: int | None = None
        self.raw_record: bytes | None = None

    def record(self) -> bytes:
        entries = [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{self.sums[name]}",
                "links": {"self": f"{self.url}/content/{name}"},
            }
            for name, content in self.files.items()
        ]
        return self.raw_record or json.dumps({"id": 8099322, "files": entries}).encode()

    def downloads(self) -> list[tuple[str, str | None]]:
        return [request for request in self.requests if request[0].startswith("/content/")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordServer]:
    monkeypatch.setenv("no_proxy", "*")
    with RecordServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_files_of_the_data_set_arrive_whole(server: RecordServer, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    paths = fetch("ds1-photons", tmp_path / "new", server.url, progress=lambda *report: told.append(report))
    assert [path.name for path in paths] == ["dataset_1_photons_1.hdf5"]
    assert paths[0].read_bytes() == PHOTONS
    assert [item.name for item in (tmp_path / "new").iterdir()] == ["dataset_1_photons_1.hdf5"]
    assert told[-1] == ("dataset_1_photons_1.hdf5", len(PHOTONS), len(PHOTONS))
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


def test_particles_of_one_record_are_told_apart(server: RecordServer, tmp_path: Path) -> None:
    assert [path.read_bytes() for path in fetch("ds1-pions", tmp_path, server.url)] == [PIONS]


def test_complete_file_is_not_fetched_again(server: RecordServer, tmp_path: Path) -> None:
    first = fetch("ds1-photons", tmp_path, server.url)
    assert fetch("ds1-photons", tmp_path, server.url) == first
    assert len(server.downloads()) == 1


def test_damaged_file_is_fetched_again(server: RecordServer, tmp_path: Path) -> None:
    (tmp_path / "dataset_1_pions_1.hdf5").write_bytes(b"something else")
    assert fetch("ds1-pions", tmp_path, server.url)[0].read_bytes() == PIONS


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_interrupted_download_goes_on(knows_ranges: bool, server: RecordServer, tmp_path: Path) -> None:
    server.break_at = 1_000_000
    with pytest.raises(FetchError, match=r"1000000 of 1500000 bytes; fetch again|connection broke"):
        fetch("ds1-photons", tmp_path, server.url)
    part = tmp_path / "dataset_1_photons_1.hdf5.part"
    assert [item.name for item in tmp_path.iterdir()] == [part.name]
    assert part.read_bytes() == PHOTONS[:1_000_000]
    server.break_at, server.knows_ranges = None, knows_ranges
    assert fetch("ds1-photons", tmp_path, server.url)[0].read_bytes() == PHOTONS
    assert server.downloads()[-1][1] == "bytes=1000000-"
    assert not part.exists()


def test_user_who_interrupts_keeps_what_came(server: RecordServer, tmp_path: Path) -> None:
    def interrupt(_name: str, done: int, _size: int) -> None:
        if done > 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("ds1-photons", tmp_path, server.url, progress=interrupt)
    kept = (tmp_path / "dataset_1_photons_1.hdf5.part").stat().st_size
    assert 300_000 < kept < len(PHOTONS)
    assert fetch("ds1-photons", tmp_path, server.url)[0].read_bytes() == PHOTONS
    assert server.downloads()[-1][1] == f"bytes={kept}-"


def test_part_that_is_already_whole_needs_no_download(server: RecordServer, tmp_path: Path) -> None:
    (tmp_path / "dataset_1_pions_1.hdf5.part").write_bytes(PIONS)
    assert fetch("ds1-pions", tmp_path, server.url)[0].read_bytes() == PIONS
    assert server.downloads() == []


def test_part_that_is_too_long_is_thrown_away(server: RecordServer, tmp_path: Path) -> None:
    (tmp_path / "dataset_1_pions_1.hdf5.part").write_bytes(PIONS * 2)
    assert fetch("ds1-pions", tmp_path, server.url)[0].read_bytes() == PIONS
    assert server.downloads()[-1][1] is None


def test_wrong_checksum_is_told_and_the_file_removed(server: RecordServer, tmp_path: Path) -> None:
    server.sums["dataset_1_pions_1.hdf5"] = "0" * 32
    with pytest.raises(FetchError, match=r"dataset_1_pions_1.hdf5 did not match its checksum md5:000.* removed"):
        fetch("ds1-pions", tmp_path, server.url)
    assert list(tmp_path.iterdir()) == []


def test_wrong_beginning_of_a_resumed_file_is_noticed(server: RecordServer, tmp_path: Path) -> None:
    (tmp_path / "dataset_1_pions_1.hdf5.part").write_bytes(b"THE")
    with pytest.raises(FetchError, match="checksum"):
        fetch("ds1-pions", tmp_path, server.url)
    assert list(tmp_path.iterdir()) == []
    assert fetch("ds1-pions", tmp_path, server.url)[0].read_bytes() == PIONS


def test_absent_record_or_file_is_told(server: RecordServer, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="/api/records/6366270 answers 404"):
        fetch("ds2", tmp_path, server.url)
    server.raw_record = server.record().replace(b"/content/dataset_1_pions", b"/gone/dataset_1_pions")
    with pytest.raises(FetchError, match=r"/gone/dataset_1_pions_1.hdf5 answers 404"):
        fetch("ds1-pions", tmp_path, server.url)


def test_no_network_is_told_with_what_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        FetchError, match=rf"cannot reach http://127.0.0.1:{port}/api/records/6366323 .*is there a network"
    ):
        fetch("ds3", tmp_path, f"http://127.0.0.1:{port}", timeout=5)
    assert list(tmp_path.iterdir()) == []


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "key": "dataset_1_pions_1.hdf5",
        "size": 9,
        "checksum": "md5:" + "0" * 32,
        "links": {"self": "http://127.0.0.1/x"},
    } | changes


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>maintenance</html>", "no Zenodo record"),
        (b"[]", "no Zenodo record"),
        (json.dumps({"files": [{"key": "a_pion.hdf5"}]}).encode(), "no Zenodo record"),
        (json.dumps({"files": [entry(key="../pion.hdf5")]}).encode(), "no Zenodo record"),
        (json.dumps({"files": [entry(links={"self": "file:///etc/hostname"})]}).encode(), "no Zenodo record"),
        (json.dumps({"files": [entry(checksum="none")]}).encode(), "no Zenodo record"),
        (json.dumps({"files": [entry(key="readme.txt")]}).encode(), r"no file like \*pion\*.hdf5 but \['readme.txt'\]"),
    ],
)
def test_record_that_makes_no_sense_is_told(answer: bytes, message: str, server: RecordServer) -> None:
    server.raw_record = answer
    with pytest.raises(FetchError, match=message):
        list_files("ds1-pions", server.url)


def test_unwritable_folder_is_told(server: RecordServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match=r"cannot write into .*file"):
        fetch("ds1-pions", tmp_path / "file", server.url)


@pytest.mark.parametrize("base_url", ["nonsense", "http://[", "http://127.0.0.1:99999"])
def test_senseless_server_is_told(base_url: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="cannot reach"):
        fetch("ds2", tmp_path, base_url, timeout=2)


def test_unknown_name_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no data set 'ds4'; choose among ds1-photons, ds1-pions, ds2, ds3"):
        fetch("ds4", tmp_path)


def test_records_carry_the_published_identifiers() -> None:
    assert {name: record.doi for name, record in RECORDS.items()} == {
        "ds1-photons": "10.5281/zenodo.8099322",
        "ds1-pions": "10.5281/zenodo.8099322",
        "ds2": "10.5281/zenodo.6366270",
        "ds3": "10.5281/zenodo.6366323",
    }
