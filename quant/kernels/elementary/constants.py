"""The numbers of the elementary functions, for the reference and for the kernels.

Each polynomial was fitted for the least relative error over its range, with its coefficients rounded to
float32 one after another; the error is that of the polynomial in exact arithmetic. A number here means the
float32 that is nearest to it.
"""

NAN_BITS = 0x7FC00000
"""The one NaN that our functions give. CPUs differ in the sign and the payload of theirs."""

INFINITY_BITS = 0x7F800000
SIGN_BIT = -(1 << 31)

# ln 2 in two parts. The first has 15 bits, so that its product with a whole number up to 9 bits is exact.
LN2_HIGH = 0.693145751953125
LN2_LOW = 1.4286068203094172e-06
LOG2_E = 1.4426950408889634

# e^r = 1 + r + r²·P(r) for |r| ≤ ln(2)/2; error 3.1e-9.
EXP = (0.49999994, 0.16666521, 0.041668255, 0.008368669, 0.0013821693)
EXP_HIGHEST = 89.0
"""Above it e^x is infinite in float32."""
EXP_LOWEST = -125.0
"""Below it x·e^x is zero in float32, and e^x all the more."""

# log(1 + f) = f − s·(f − z·P(z)) with s = f / (2 + f) and z = s² ≤ 1/9; error 1.2e-10.
LOG = (0.66666675, 0.39998952, 0.28615096, 0.21445325, 0.2423953)
SQRT_HALF_BITS = 0x3F3504F3
"""Bits of the float32 just below √½: mantissas are taken from there up to √2."""
ONE_BITS = 0x3F800000
SMALLEST_NORMAL = 1.1754943508222875e-38
TWO_23 = 8388608.0

# tanh x = x + x·z·P(z) with z = x² for |x| < 0.625; error 4.2e-9.
TANH = (-0.33333284, 0.13331486, -0.053743176, 0.020649733, -0.005716242)
TANH_BORDER = 0.625

# sin a = a + a·z·P(z) and cos a = 1 − z/2 + z²·P(z) with z = a² for |a| ≤ π/4; errors 1.9e-10 and 1.2e-10.
SIN = (-0.16666667, 0.008333373, -0.00019850304, 2.8045297e-06)
COS = (0.041666646, -0.0013887311, 2.4432566e-05)
RADIANS = 3.4061215800304755e-19
"""2π / 2^64: one unit of a phase."""
