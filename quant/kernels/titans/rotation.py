"""Steps of the rotary positions in 64-bit fixed point: what a channel turns by from one token to the next.

A turn is 2^64 units, so position × step wraps round as whole turns do. The steps are computed in decimal
arithmetic, which gives the same digits on every machine; a power of a library need not.
"""

from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

TWO_PI = Decimal("6.2831853071795864769252867665590057683943387987502")


def rotation_steps(*, head_dim: int, theta: float) -> NDArray[np.int64]:
    """theta^(−2i/K) radians for each i of K/2 channels."""
    context = Context(prec=50)
    log_theta = context.ln(Decimal(theta))
    turn = context.divide(Decimal(1 << 64), TWO_PI)
    steps: list[int] = []
    for i in range(head_dim // 2):
        exponent = context.divide(context.multiply(log_theta, Decimal(-2 * i)), Decimal(head_dim))
        steps.append(int(context.multiply(turn, context.exp(exponent)).to_integral_value()))
    return np.array(steps, dtype=np.int64)
