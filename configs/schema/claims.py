"""Sections `params`, `memory_budget_mb` and `context_tiers`: what a file says of itself.

`inspect` puts each of these beside the computed truth.
"""

from typing import Annotated

from configs.schema.keys import NAME, QUANTITY, Key
from configs.schema.section import section


@section
class StatedParams:
    """Parameters and bytes as the file states them."""

    base: Annotated[str | None, Key("Parameters without experts", "works", form=QUANTITY)] = None
    moe_total: Annotated[str | None, Key("Parameters of all experts", "works", form=QUANTITY)] = None
    physical: Annotated[str | None, Key("Parameters stored", "works", form=QUANTITY)] = None
    effective_2loops: Annotated[str | None, Key("Parameters applied at 2 rounds", "works", form=QUANTITY)] = (
        None
    )
    effective_6loops: Annotated[str | None, Key("Parameters applied at 6 rounds", "works", form=QUANTITY)] = (
        None
    )
    active_per_token: Annotated[str | None, Key("Parameters that a token visits", "works", form=QUANTITY)] = (
        None
    )
    weight_mb: Annotated[float | None, Key("Size of all weights", "works", unit="MB", low=0.0)] = None
    total_mb: Annotated[float | None, Key("Memory of everything", "works", unit="MB", low=0.0)] = None


@section
class MemoryBudget:
    """A budget by parts: names, their values, and sums."""

    keys: Annotated[tuple[str, ...], Key("Names of the parts", "works", form=NAME, json="_keys")] = ()
    vals: Annotated[
        tuple[float, ...], Key("Size of each part", "works", unit="MB", low=0.0, json="_vals")
    ] = ()
    total: Annotated[float | None, Key("Sum of the parts", "works", unit="MB", low=0.0)] = None
    headroom_8gb: Annotated[float | None, Key("What is left of 8 GB", "works", unit="MB")] = None
    growth_ceiling: Annotated[float | None, Key("Most growth of all stores", "works", unit="MB", low=0.0)] = (
        None
    )
    max_with_growth: Annotated[float | None, Key("Sum with growth", "works", unit="MB", low=0.0)] = None


@section
class ContextTier:
    """One store of the past."""

    name: Annotated[str, Key("Name of the store", "works", form=NAME)]
    tokens: Annotated[int | None, Key("Tokens held", "works", unit="tokens", low=0)] = None
    entries: Annotated[int | None, Key("Entries held", "works", unit="entries", low=0)] = None
    mb: Annotated[float | None, Key("Size", "works", unit="MB", low=0.0)] = None
