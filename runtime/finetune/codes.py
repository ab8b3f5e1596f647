"""The method `codes`: the ternary weights themselves, ten thousand of them in a step, and ever fewer.

Of N codes that are flipped together, the gain grows with √N, and with N the harm that they do by chance. So
as there is less to gain, fewer should go; and a part of those that were looked at would not do, as it earns a
part of what all earn. Hence the looks of a step whose rate is the share s of the first one move s² of the
candidates, and no step takes more than it looked at. Slopes are then about s times as large as at first.
"""

from collections.abc import Mapping

from configs.errors import UsageError
from quant.adapter import Setting
from runtime.adapting.codes import DEFAULT_SPREAD, WHOLE, Codes, checked_spread
from runtime.adapting.learnt import whole_told
from runtime.finetune.method import MethodOptions, OwnOptions
from runtime.finetune.packed import Opened, PackedMethod, check_settings, number_of, opened_to_learn


class CodesMethod(PackedMethod):
    """A packed model whose codes move."""

    def __init__(
        self, opened: Opened, codes: Codes, *, options: MethodOptions, settings: Mapping[str, Setting]
    ) -> None:
        super().__init__(
            opened, codes, options=options, settings=settings, look_length=1.0, length=self._nearest
        )
        self._codes, self._share = codes, 1.0

    def begin(self, share: float) -> None:
        """The looks that follow move the square of this share."""
        self._share = share
        self._codes.look_length = int(WHOLE * share * share)

    def slope(self, above: float, below: float) -> float:
        """As if all candidates had been looked at."""
        return super().slope(above, below) / self._share

    def _nearest(self, wanted: float) -> float:
        """A length of 1 takes all candidates; no step takes more than it looked at."""
        most = self._codes.look_length
        return float(round(max(-most, min(most, wanted * self._share * WHOLE))))


def prepare(options: MethodOptions) -> PackedMethod:
    """A model whose codes move."""
    check_settings(options.settings, method="codes", known=("spread",))
    if options.epsilon is not None:
        raise UsageError("codes move by one, and have no epsilon", hint="Say how many move: --set spread=N")
    settings = {"spread": checked_spread(number_of(options.settings, "spread", default=DEFAULT_SPREAD))}
    opened = opened_to_learn(options, moves_codes=True)
    return CodesMethod(
        opened,
        Codes(opened.model.file, seed=options.seed, settings=settings),
        options=options,
        settings=settings,
    )


def options_of(settings: Mapping[str, Setting]) -> OwnOptions:
    """What a log's settings say of its options."""
    spread = checked_spread(settings["spread"])
    return OwnOptions(rounds=whole_told(settings, "rounds"), settings={"spread": str(spread)})
