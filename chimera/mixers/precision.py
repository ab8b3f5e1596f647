"""Recurrences run in float32, or wider if their input is, whatever autocast asks for."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def widened(x: Tensor) -> Tensor:
    """`x` in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(
    function: Callable[Concatenate[Tensor, Rest], Result],
) -> Callable[Concatenate[Tensor, Rest], Result]:
    """Keep autocast out of a function. Autocast would turn the float32 products in it to bfloat16."""

    @wraps(function)
    def run(first: Tensor, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        if first.device.type == "meta":  # there is no autocast for it
            return function(first, *args, **kwargs)
        with torch.autocast(device_type=first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return run
