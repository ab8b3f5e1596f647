"""The keys of config.json in a Hugging Face folder: ours, theirs, and what theirs would lose of ours.

Both programs read one file. `transformers` adds keys of its own, which ours takes for notes, and makes three
of ours its own: `_name_or_path`, for it the path; `torch_dtype`, for it an old name of `dtype`, the type of
the file's numbers; `transformers_version`. They are told again in a note, beside the form of the weights.
"""

from collections.abc import Mapping
from typing import Any, cast

from configs.codec import encode
from configs.errors import ModelError
from configs.load import build_config
from configs.schema.keys import fields_of
from configs.schema.model import ModelConfig
from exports.handover.names import ARCHITECTURE, FORMS, Form

KEPT_KEY = "_chimera"
"""A key that begins like this is a note to our own loader."""
_FORM = "weight_form"
_TAKEN = ("_name_or_path", "torch_dtype", "transformers_version")


def file_keys(config: ModelConfig, *, form: Form, dtype: str, bos: int | None) -> dict[str, Any]:
    """All keys of the file."""
    raw = encode(config)
    end, padding = config.token_ids
    return {
        **raw,
        "architectures": [ARCHITECTURE],
        "dtype": dtype,
        "bos_token_id": bos,
        "eos_token_id": end,
        "pad_token_id": padding,
        KEPT_KEY: kept(raw, form=form),
    }


def kept(raw: Mapping[str, Any], *, form: Form) -> dict[str, str]:
    """The note."""
    return {_FORM: form, **{key: str(raw[key]) for key in _TAKEN if key in raw}}


def form_of(raw: Mapping[str, Any]) -> Form:
    """The form of the weights that a file tells of; without a note they are latent."""
    form = _note(raw).get(_FORM, "latent")
    if form not in FORMS:
        raise ModelError(f"{KEPT_KEY}.{_FORM} is {str(form)[:40]!r}; allowed are {', '.join(FORMS)}")
    return cast(Form, form)


def model_config(raw: Mapping[str, Any], *, source: str) -> ModelConfig:
    """The config that the keys make, checked as any config is."""
    known = {field.json for field in fields_of(ModelConfig)} | {"preset"}
    named = {key: value for key, value in raw.items() if key in known and key not in _TAKEN}
    note = _note(raw)
    named |= {key: note[key] for key in _TAKEN if key in note}
    return build_config(named, source=source)


def _note(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    note = raw.get(KEPT_KEY, {})
    return cast("Mapping[str, Any]", note) if isinstance(note, Mapping) else {}
