from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from calo4pqvae.errors import DataError
from calo4pqvae.standalone.bit_images import draw_bit_images, save_bit_images


def test_every_picture_stands_where_it_should() -> None:
    bits = np.zeros((5, 6), dtype=np.uint8)
    bits[4] = [1, 0, 0, 0, 0, 1]
    (axes,) = draw_bit_images(bits, (2, 3), columns=3).axes
    sheet = np.asarray(axes.get_images()[0].get_array())
    assert sheet.shape == (2 * 3 + 1, 3 * 4 + 1)
    assert np.argwhere(sheet == 1).tolist() == [[4, 5], [5, 7]]


def test_a_png_is_written(tmp_path: Path) -> None:
    bits = np.ones((3, 16), dtype=np.uint8)
    save_bit_images(tmp_path / "new" / "a.png", bits, (4, 4))
    pixels = imread(tmp_path / "new" / "a.png")
    assert pixels[..., :3].mean() < 0.6


@pytest.mark.parametrize("bits", [np.zeros((0, 4)), np.zeros((3, 5)), np.zeros(4)])
def test_states_that_are_no_pictures_are_refused(bits: np.ndarray) -> None:
    with pytest.raises(DataError, match="are no pictures of 2 x 2"):
        draw_bit_images(bits.astype(np.uint8), (2, 2))
