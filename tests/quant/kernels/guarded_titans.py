"""Run by a test in a process of its own: the Titans step on arrays that end where memory ends.

As in `guarded.py`, a read or a write beyond the last element of any array ends the process.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from quant.kernels.operation import difference
from quant.kernels.table import OPERATIONS
from quant.kernels.titans import places as at
from quant.kernels.titans.calls import titans_call
from quant.kernels.titans.problems import random_parameters, random_state, random_tokens
from quant.kernels.titans.reference import TitansTokens, titans
from quant.kernels.titans.shapes import TitansShape, TitansState
from tests.quant.kernels.guarded import at_the_end


def main() -> None:
    rng = np.random.default_rng(0)
    for head_dim in (2, 24, 64, 70, 128):
        shape = TitansShape(num_heads=2, head_dim=head_dim, num_slots=5, window=19, memory_chunk=7)
        for position in (0, 13, 40):
            parameters = random_parameters(shape, rng)
            tokens = random_tokens(shape, num_tokens=1, position=position, rng=rng)
            start = random_state(shape, parameters, position=position, rng=rng)
            right = titans(shape, parameters, tokens, start, position)

            moved: dict[str, Any] = {
                field.name: at_the_end(getattr(parameters, field.name))
                for field in fields(parameters)
                if field.name != "eps"
            }
            state = TitansState._make(at_the_end(array) for array in start)
            call = titans_call(
                shape,
                replace(parameters, **moved),
                TitansTokens._make(at_the_end(np.ascontiguousarray(part)) for part in tokens),
                state,
                position=at_the_end(np.array([position], dtype=np.int64)),
            )
            scores = at_the_end(np.full((2, shape.num_scores), np.nan, dtype=np.float32))
            outputs = tuple(at_the_end(output) for output in call.outputs)
            for place, array in zip((at.SCORES, at.Y, at.SURPRISE), (scores, *outputs), strict=True):
                call.table[place] = array.ctypes.data
            call.run(OPERATIONS["titans"].forms["plain"], 0, call.units)
            assert not difference((*outputs, *state), right), f"{head_dim}, {position}"


if __name__ == "__main__":
    main()
    print("done")
