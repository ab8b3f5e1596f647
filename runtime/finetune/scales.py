"""The method `scales`: how much each group of a packed model's ternary weights counts."""

from collections.abc import Mapping

from quant.adapter import Setting
from runtime.adapting.drift import UNIT, look_length, whole_length
from runtime.adapting.learnt import number_told, whole_told
from runtime.adapting.scales import DEFAULT_EPSILON, Scales
from runtime.finetune.method import MethodOptions, OwnOptions
from runtime.finetune.packed import PackedMethod, check_settings, opened_to_learn


def prepare(options: MethodOptions) -> PackedMethod:
    """A model whose scales move."""
    check_settings(options.settings, method="scales")
    epsilon = DEFAULT_EPSILON if options.epsilon is None else options.epsilon
    units = look_length(epsilon)
    opened = opened_to_learn(options)
    settings = {"epsilon": epsilon}
    return PackedMethod(
        opened,
        Scales(opened.model.file, seed=options.seed, settings=settings),
        options=options,
        settings=settings,
        look_length=units * UNIT,
        length=whole_length,
    )


def options_of(settings: Mapping[str, Setting]) -> OwnOptions:
    """What a log's settings say of its options."""
    epsilon = number_told(settings, "epsilon")
    look_length(epsilon)
    return OwnOptions(epsilon=epsilon, rounds=whole_told(settings, "rounds"))
