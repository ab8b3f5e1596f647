"""The method `codes`: the ternary weights themselves, some hundred of them in a step."""

from collections.abc import Mapping

from configs.errors import UsageError
from quant.adapter import Setting
from runtime.adapting.codes import DEFAULT_SPREAD, WHOLE, Codes, checked_spread
from runtime.adapting.learnt import whole_told
from runtime.finetune.method import MethodOptions, OwnOptions
from runtime.finetune.packed import PackedMethod, check_settings, number_of, opened_to_learn


def prepare(options: MethodOptions) -> PackedMethod:
    """A model whose codes move."""
    check_settings(options.settings, method="codes", known=("spread",))
    if options.epsilon is not None:
        raise UsageError("codes move by one, and have no epsilon", hint="Say how many move: --set spread=N")
    settings = {"spread": checked_spread(number_of(options.settings, "spread", default=DEFAULT_SPREAD))}
    opened = opened_to_learn(options, moves_codes=True)
    return PackedMethod(
        opened,
        Codes(opened.model.file, seed=options.seed, settings=settings),
        options=options,
        settings=settings,
        look_length=1.0,
        length=_share,
    )


def options_of(settings: Mapping[str, Setting]) -> OwnOptions:
    """What a log's settings say of its options."""
    spread = checked_spread(settings["spread"])
    return OwnOptions(rounds=whole_told(settings, "rounds"), settings={"spread": str(spread)})


def _share(wanted: float) -> float:
    """A length of 1 takes all candidates, and no step takes more."""
    return float(round(max(-1.0, min(1.0, wanted)) * WHOLE))
