"""Places of operations on the residual stream, beside those of `quant.kernels.elementary.places`."""

ADDEND = 13  # float32 rows that are added first; 0 where there are none, and then nothing is written at SUM
ADDEND_STRIDE = 14
SUM = 15  # float32 results of the addition; may be the inputs
SUM_STRIDE = 16
