import gzip
import hashlib
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from calo4pqvae.errors import DataError, FetchError
from calo4pqvae.prior.bits import mnist
from calo4pqvae.prior.bits.mnist import IMAGE_SETS, ImageSet, bundled_images, fetch_images, load_images


def packed(values: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return gzip.compress(head + values.astype(np.uint8).tobytes())


RNG = np.random.default_rng(2)
FILES = {
    name: packed(RNG.integers(0, 256, shape))
    for name, shape in {
        "train-images-idx3-ubyte.gz": (20, 28, 28),
        "train-labels-idx1-ubyte.gz": (20,),
        "t10k-images-idx3-ubyte.gz": (5, 28, 28),
        "t10k-labels-idx1-ubyte.gz": (5,),
    }.items()
}


class Handler(BaseHTTPRequestHandler):
    """Serves the small files, and ranges of them."""

    def do_GET(self) -> None:
        content = FILES.get(self.path.removeprefix("/small/"))
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    sums = {name: (len(content), hashlib.md5(content).hexdigest()) for name, content in FILES.items()}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        url = f"http://127.0.0.1:{running.server_port}/small"
        monkeypatch.setattr(mnist, "IMAGE_SETS", {"mnist": ImageSet(url, sums, "none")})
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield url
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_bundled_images_are_balanced_bits_with_labels(name: str) -> None:
    train, test = bundled_images(name, "train"), bundled_images(name, "test")
    assert (train.bits.shape, test.bits.shape) == ((2000, 784), (500, 784))
    assert train.shape == (28, 28)
    counts = np.bincount(train.labels, minlength=10)
    assert counts.min() > 150
    assert counts.max() < 260
    rows = {
        part: {row.tobytes() for row in np.packbits(file.bits, axis=1)}
        for part, file in (("train", train), ("test", test))
    }
    assert not rows["train"] & rows["test"]
    assert 0.1 < train.bits.mean() < 0.4


def test_bundled_digits_look_like_their_labels() -> None:
    """Nearest mean image of the training part names most test digits: labels belong to their images."""
    train, test = bundled_images("mnist", "train"), bundled_images("mnist", "test")
    means = np.stack([train.bits[train.labels == digit].mean(axis=0) for digit in range(10)])
    nearest = ((test.bits[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == test.labels).mean() > 0.75


def test_the_samples_are_small() -> None:
    folder = Path(mnist.__file__).parents[1] / "samples"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000
    assert "CC BY-SA 3.0" in (folder / "README.md").read_text(encoding="utf-8")


def test_sets_are_fetched_and_read(server: str, tmp_path: Path) -> None:
    told: list[str] = []
    paths = fetch_images("mnist", tmp_path / "new", progress=lambda name, *_: told.append(name))
    assert sorted(path.name for path in paths) == sorted(FILES)
    assert set(told) == set(FILES)
    train, test = load_images(tmp_path / "new", "train"), load_images(tmp_path / "new", "test")
    assert (train.bits.shape, test.bits.shape) == ((20, 784), (5, 784))
    raw = gzip.decompress(FILES["t10k-images-idx3-ubyte.gz"])[16:]
    np.testing.assert_array_equal(test.bits.ravel(), np.frombuffer(raw, dtype=np.uint8) >= 128)
    assert server


def test_an_interrupted_download_goes_on(server: str, tmp_path: Path) -> None:
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / f"{name}.part").write_bytes(FILES[name][:1000])
    paths = fetch_images("mnist", tmp_path, base_url=server)
    assert paths[0].read_bytes() == FILES[name]


def test_a_wrong_file_is_removed(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "train-images-idx3-ubyte.gz"
    monkeypatch.setitem(FILES, name, FILES[name][:-1] + b"?")
    with pytest.raises(FetchError, match=r"did not match its checksum"):
        fetch_images("mnist", tmp_path, base_url=server)
    assert list(tmp_path.iterdir()) == []


def test_published_sums_are_complete() -> None:
    assert set(IMAGE_SETS) == {"mnist", "fashion-mnist"}
    for images in IMAGE_SETS.values():
        assert set(images.sums) == set(FILES)
        assert all(len(md5) == 32 and size > 1000 for size, md5 in images.sums.values())
    assert len({md5 for images in IMAGE_SETS.values() for _, md5 in images.sums.values()}) == 8


def test_unknown_sets_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no bundled images 'cifar'; choose among mnist, fashion-mnist"):
        bundled_images("cifar", "train")
    with pytest.raises(FetchError, match="no set of images 'cifar'"):
        fetch_images("cifar", tmp_path)
    with pytest.raises(DataError, match=r"there is no file .*train-images"):
        load_images(tmp_path, "train")
