"""States of bits as pictures, for machines that were trained on images."""

import io
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from calo4pqvae.atomic import atomic_path
from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.pages.canvas import figure_style, styled

__all__ = ["draw_bit_images", "save_bit_images"]

_GAP = 1  # pixels between two pictures


@styled
def draw_bit_images(bits: NDArray[np.uint8], shape: tuple[int, int], columns: int = 10) -> Figure:
    """Pictures side by side, ones black.

    Args:
        bits: States (n, pixels).
        shape: Rows and columns of a picture.
        columns: Pictures in a row.

    Raises:
        DataError: If the states are no pictures of this shape.
    """
    if bits.ndim != 2 or len(bits) == 0 or bits.shape[1] != math.prod(shape):
        raise DataError(
            f"states of shape {bits.shape} are no pictures of {shape[0]} x {shape[1]}; give their true shape"
        )
    columns = min(columns, len(bits))
    rows = math.ceil(len(bits) / columns)
    height, width = shape[0] + _GAP, shape[1] + _GAP
    sheet = np.full((rows * height + _GAP, columns * width + _GAP), 0.25)
    for index, picture in enumerate(bits.reshape(-1, *shape)):
        top, left = _GAP + index // columns * height, _GAP + index % columns * width
        sheet[top : top + shape[0], left : left + shape[1]] = picture
    figure = Figure(figsize=(columns * 0.7, rows * 0.7 * shape[0] / shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    return figure


def save_bit_images(path: Path, bits: NDArray[np.uint8], shape: tuple[int, int], columns: int = 10) -> None:
    """Writes :func:`draw_bit_images` as PNG, whole or not at all.

    Raises:
        DataError: If the states are no pictures of this shape.
        OutputError: If the file cannot be written.
    """
    figure = draw_bit_images(bits, shape, columns)
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(buffer, format="png", dpi=120)
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())
