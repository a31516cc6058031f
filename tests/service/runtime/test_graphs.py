"""Outputs of a batch are read image by image."""

import numpy as np

from service.runtime.graphs import Outputs

LOGITS = np.array([[1, 2], [3, 4]], np.float32)


def test_rows_have_their_own_logits():
    rows = Outputs(LOGITS).rows()
    assert [row.logits.tolist() for row in rows] == [[1, 2], [3, 4]]
    assert [row.similarity for row in rows] == [None, None]


def test_rows_have_their_own_nearest_reference_images():
    similarity = np.array([[0.9, 0.8], [0.7, 0.6]], np.float32)
    neighbour = np.array([[5, 6], [7, 8]])
    rows = Outputs(LOGITS, LOGITS, similarity, neighbour).rows()
    assert [row.neighbour.tolist() for row in rows] == [[5, 6], [7, 8]]
    assert np.array_equal(rows[1].similarity, similarity[1])
