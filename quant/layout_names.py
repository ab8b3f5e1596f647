"""The names of the ways in which ternary codes may lie in memory; `quant.layouts` tells of them."""

from typing import Literal, TypeAlias, get_args

Layout: TypeAlias = Literal["tiles", "columns", "trits"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
