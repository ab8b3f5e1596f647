"""`import exports.huggingface` and `transformers` knows Chimera: its Auto classes load our folders.

    import exports.huggingface
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)

`chimera export huggingface` writes such folders, `chimera import huggingface` reads them.
"""

from configs.errors import MissingExtra

_EXTRAS = {"torch": "train", "transformers": "transformers"}

try:
    import transformers

    from exports.handover.causal_lm import Chimera51ForCausalLM
    from exports.handover.config import Chimera51Config
except ModuleNotFoundError as error:
    if error.name not in _EXTRAS:
        raise
    raise MissingExtra(
        package=error.name, extra=_EXTRAS[error.name], purpose="a model of transformers"
    ) from None

__all__ = ["Chimera51Config", "Chimera51ForCausalLM"]

transformers.AutoConfig.register(Chimera51Config.model_type, Chimera51Config, exist_ok=True)
transformers.AutoModelForCausalLM.register(Chimera51Config, Chimera51ForCausalLM, exist_ok=True)
