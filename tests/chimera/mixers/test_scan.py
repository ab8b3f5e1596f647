"""Scans over chunks, against the loop that they stand for."""

import torch

from chimera.mixers.scan import decay_scan, matrix_scan
from tests.chimera.mixers.helpers import FLOAT64, assert_close


def inputs(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=FLOAT64, requires_grad=True) for shape in shapes]


def test_matrix_scan_is_the_loop():
    transition, update, state = inputs((2, 3, 5, 4, 4), (2, 3, 5, 4, 6), (2, 3, 4, 6))
    starts, last = matrix_scan(transition, update, state)
    expected = [state]
    for chunk in range(5):
        expected.append(transition[:, :, chunk] @ expected[-1] + update[:, :, chunk])
    assert_close((starts, last), (torch.stack(expected[:-1], dim=2), expected[-1]), tolerance=1e-13)


def test_matrix_scan_gradient():
    assert torch.autograd.gradcheck(matrix_scan, inputs((1, 2, 3, 2, 2), (1, 2, 3, 2, 3), (1, 2, 2, 3)))


def test_decay_scan_is_the_loop():
    decay, update, state = inputs((2, 3, 5), (2, 3, 5, 4, 6), (2, 3, 4, 6))
    starts, last = decay_scan(decay, update, state)
    expected = [state]
    for chunk in range(5):
        expected.append(decay[:, :, chunk, None, None] * expected[-1] + update[:, :, chunk])
    assert_close((starts, last), (torch.stack(expected[:-1], dim=2), expected[-1]), tolerance=1e-13)


def test_decay_scan_gradient():
    assert torch.autograd.gradcheck(decay_scan, inputs((1, 2, 3), (1, 2, 3, 2), (1, 2, 2)))
