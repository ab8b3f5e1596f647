"""Section `looping`: which layers run several times, and how often."""

from typing import Annotated, Literal

from configs.schema.keys import Key
from configs.schema.section import section

LayerRange = tuple[int, int]
Injection = Literal["diagonal", "dense"]


@section
class Looping:
    """Layers that run several times, held stable by a diagonal decay."""

    enabled: Annotated[bool, Key("Run the looped layers more than once", "works")] = False
    method: Annotated[Literal["parcae_zoh_stable"], Key("How the loop is held stable", "carried")] = (
        "parcae_zoh_stable"
    )
    prelude: Annotated[LayerRange, Key("First and last layer before the loop", "works", low=0)] = (0, 0)
    loop: Annotated[LayerRange, Key("First and last layer of the loop", "works", low=0)] = (0, 0)
    coda: Annotated[LayerRange, Key("First and last layer after the loop", "works", low=0)] = (0, 0)
    loop_range: Annotated[
        LayerRange, Key("Fewest and most rounds", "works", unit="rounds", low=1, high=64)
    ] = (1, 6)
    loop_default: Annotated[
        int, Key("Rounds unless told otherwise", "works", unit="rounds", low=1, high=64)
    ] = 2
    stability_A: Annotated[Literal["diag_negative_exp"], Key("Form of the decay", "carried")] = (
        "diag_negative_exp"
    )
    spectral_radius_bound: Annotated[
        float, Key("Bound that the decay keeps by its form", "carried", low=0.0, high=1.0)
    ] = 1.0
    depth_selection: Annotated[
        Literal["stochastic_per_sequence", "fixed"], Key("How training draws the rounds", "works")
    ] = "stochastic_per_sequence"
    adaptive_exit_threshold: Annotated[
        float,
        Key("Relative change below which a token leaves the loop; 0 never", "works", low=0.0, high=1.0),
    ] = 0.01
    backward_truncation: Annotated[
        Literal["half", "none"], Key("Rounds that training goes back through", "works")
    ] = "half"
    zoh_input: Annotated[Literal["exact", "euler"], Key("Discretisation of the injected input", "works")] = (
        "exact"
    )
    injection: Annotated[Injection, Key("Form of the matrices B and C", "works")] = "diagonal"
