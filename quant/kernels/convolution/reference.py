"""The short convolution by NumPy, operation by operation as the kernel computes it.

    y_t = SiLU(w_{Y−1} ⊙ x_t + w_{Y−2} ⊙ x_{t−1} + … + w_0 ⊙ x_{t−(Y−1)})

The sum runs from the token itself back to the oldest, each product rounded before it is added.
"""

import numpy as np

from quant.kernels.elementary.reference import Floats, silu


def short_convolution(x_TD: Floats, weight_YD: Floats, tail_YD: Floats) -> tuple[Floats, Floats]:
    """Results [tokens, channels] and the new tail: the last inputs, the oldest first."""
    past_and_x = np.concatenate([tail_YD, x_TD])
    num_tokens, num_taps = len(x_TD), len(weight_YD)
    with np.errstate(all="ignore"):
        y_TD = x_TD * weight_YD[-1]
        for tap in range(num_taps - 2, -1, -1):
            y_TD = y_TD + past_and_x[tap : tap + num_tokens] * weight_YD[tap]
    return silu(y_TD), past_and_x[num_tokens:]
