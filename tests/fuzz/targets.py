"""Every loader that is fuzzed, by name. A room is imported when one of its targets is asked for."""

from collections.abc import Callable, Mapping

from tests.fuzz.target import Target


def _packed(name: str) -> Callable[[], Target]:
    def target() -> Target:
        from tests.fuzz import packed

        return getattr(packed, name)

    return target


def _document(name: str) -> Callable[[], Target]:
    def target() -> Target:
        from tests.fuzz import documents

        return getattr(documents, name)

    return target


def _vocabulary(name: str) -> Callable[[], Target]:
    def target() -> Target:
        from tests.fuzz import vocabularies

        return getattr(vocabularies, name)

    return target


def _template(name: str) -> Callable[[], Target]:
    def target() -> Target:
        from tests.fuzz import templates

        return getattr(templates, name)

    return target


def _training(name: str) -> Callable[[], Target]:
    def target() -> Target:
        from tests.fuzz import training

        return getattr(training, name)

    return target


def _states(name: str) -> Callable[[], Target]:
    def target() -> Target:
        from tests.fuzz import states

        return getattr(states, name)

    return target


def _experts(name: str) -> Callable[[], Target]:
    def target() -> Target:
        from tests.fuzz import experts

        return getattr(experts, name)

    return target


TARGETS: Mapping[str, Callable[[], Target]] = {
    "b158": _packed("FILE"),
    "model": _packed("FOLDER"),
    "json": _document("JSON"),
    "config": _document("CONFIG"),
    "sentencepiece": _vocabulary("SENTENCEPIECE"),
    "huggingface": _vocabulary("HUGGINGFACE"),
    "template": _template("TEMPLATE"),
    "records": _document("RECORD_FILES"),
    "state": _states("STATE"),
    "visits": _experts("VISITS"),
    "intent": _experts("INTENT"),
    "shards": _training("SHARDS"),
    "checkpoint": _training("CHECKPOINT"),
}
