import numpy as np
import pytest

from scoresde.plots import chain_states, sequences, to_png


def test_a_column_for_each_step_and_a_row_for_each_direction() -> None:
    states = [np.eye(4, 6), np.zeros((4, 6)), np.ones((4, 6))]
    figure = chain_states(states, states[::-1], ["t = 0", "t = 5", "t = 10"])
    assert [ax.get_title() for ax in figure.axes] == ["t = 0", "t = 5", "t = 10", "", "", ""]
    images = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    assert all(np.array_equal(image, x) for image, x in zip(images, (*states, *states[::-1]), strict=True))
    assert to_png(figure) == to_png(chain_states(states, states[::-1], ["t = 0", "t = 5", "t = 10"]))


def test_titles_that_are_not_one_for_each_column() -> None:
    with pytest.raises(ValueError, match="1 forward and 1 reverse states have 2 titles, expected one each"):
        chain_states([np.eye(2)], [np.eye(2)], ["a", "b"])


def test_sequences_stand_beside_each_other() -> None:
    data, samples = np.eye(6, 5), np.ones((3, 5))
    figure = sequences(data, samples)
    assert [ax.get_title() for ax in figure.axes] == ["held-out data", "samples"]
    for ax, expected in zip(figure.axes, (data, samples), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), expected)
    assert to_png(figure) == to_png(sequences(data, samples))
    with pytest.raises(ValueError, match=r"data have shape \(6, 5\) and samples \(3, 4\)"):
        sequences(data, samples[:, 1:])
