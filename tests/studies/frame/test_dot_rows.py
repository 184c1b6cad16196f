"""Symbols of the rows: seeds, their mean, its error."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from calo4pqvae.studies.frame.dot_rows import Series, draw_rows, logarithmic


def drawn(series: Series) -> tuple[list[np.ndarray], list[np.ndarray]]:
    axes = Figure().subplots()
    draw_rows(axes, ("first", "second"), [series, Series("nothing", {}, {})], show_names=True)
    symbols = [np.asarray(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    bars = [path.vertices[:, 0] for bar in axes.collections for path in bar.get_paths()]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["first", "second"]
    assert axes.get_legend_handles_labels()[1] == ["a"]
    return symbols, bars


def test_seeds_their_mean_and_its_standard_error() -> None:
    symbols, bars = drawn(Series("a", {"second": (1.0, 2.0, 6.0)}, {}))
    assert [list(points) for points in symbols] == [[1.0, 2.0, 6.0], [3.0]]
    error = np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    assert list(bars[0]) == pytest.approx([3 - error, 3 + error])


def test_one_training_has_the_error_it_is_given() -> None:
    symbols, bars = drawn(Series("a", {"first": (4.0,), "second": ()}, {"first": 0.5}))
    assert [list(points) for points in symbols] == [[4.0]]
    assert list(bars[0]) == [3.5, 4.5]


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    axes = Figure().subplots()
    axes.plot([30, 900], [0, 1])
    logarithmic(axes)
    axes.figure.canvas.draw()
    shown = [text.get_text() for text in axes.get_xticklabels() if text.get_text()]
    assert {"50", "100", "200", "500"} <= set(shown)
    assert not any(text.get_text() for text in axes.get_xticklabels(minor=True))
