"""The `chimera` command: it finds the verb, reads its arguments, runs it, and says how it ended.

A verb is a module with `add_arguments(parser)` and `run(args) -> int`. The table below is the one place in
the house where a module is named by a string: a verb is imported only when it is called, so that `--help`
answers at once.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol, cast

from runtime.cli import provenance
from runtime.cli.report import print_error
from runtime.cli.streams import open_missing


class Verb(NamedTuple):
    """Where a verb lives, and the line that `chimera --help` shows for it."""

    module: str
    summary: str


VERBS: dict[str, Verb] = {
    "adapter": Verb("runtime.cli.adapter", "apply, undo, show and merge what was learnt by fine-tuning"),
    "batch": Verb("runtime.cli.batch", "answer the prompts of a file, many at a time"),
    "bench": Verb("runtime.cli.bench", "measure how fast a model runs here, and whether it stays so"),
    "chat": Verb("runtime.cli.chat", "talk with a model"),
    "doctor": Verb(
        "runtime.cli.doctor", "tell what this machine and this installation can do, and what is broken"
    ),
    "export": Verb(
        "exports.cli.export", "pack a trained model for the runtime, or hand it over to other programs"
    ),
    "finetune": Verb(
        "runtime.cli.finetune", "teach a model by forward passes alone; chimera-mezo is the same"
    ),
    "import": Verb("exports.cli.import_model", "make a checkpoint of a Hugging Face folder"),
    "inspect": Verb("runtime.cli.inspect", "show what a model is, what it costs, and what its file claims"),
    "log-experts": Verb("runtime.cli.log_experts", "write down which experts a text visits"),
    "pack-experts": Verb(
        "exports.cli.pack_experts", "lay a packed model's experts on disk, to be read as they are needed"
    ),
    "perplexity": Verb("exports.cli.perplexity", "measure how well a model foresees text, in bits per byte"),
    "plan": Verb("runtime.cli.plan", "tell whether a model fits this machine, and how fast it will be"),
    "route-ahead": Verb(
        "exports.cli.route_ahead",
        "have a model's experts decided some layers earlier, so that they are known",
    ),
    "run": Verb("runtime.cli.run", "answer a prompt, or talk where there is none; chimera-run is the same"),
    "state": Verb("runtime.cli.state", "list, show, compare and remove saved talks"),
    "train": Verb("chimera.cli.train", "train a model on text, or go on with its training"),
    "train-intent": Verb(
        "chimera.cli.train_intent",
        "learn which experts the answer to a prompt will visit, from a log of them",
    ),
}


class VerbModule(Protocol):
    """What the module of a verb must hold."""

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None: ...

    def run(self, args: argparse.Namespace, /) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Nothing is raised but what `--help` needs to stop."""
    return _guarded(argv, _dispatch)


def verb_main(name: str, *, prog: str, argv: Sequence[str] | None = None) -> int:
    """Run one verb as a command of its own name."""

    def alone(arguments: list[str]) -> int:
        if arguments == ["--version"]:
            return _tell_version(prog)
        return _run_verb(name, arguments, prog=prog)

    return _guarded(argv, alone)


def _guarded(argv: Sequence[str] | None, action: Callable[[list[str]], int]) -> int:
    open_missing()
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in options
    strays = provenance.find_strays()
    if strays:
        # A foreign `configs` hides our error tree as well, so this one refusal is printed without it.
        message = "\n".join(stray.message for stray in strays)
        return print_error(
            kind="ForeignPackage", message=message, hint=strays[0].hint, exit_code=1, as_json=as_json
        )
    from runtime.cli.outcome import run_guarded

    return run_guarded(lambda: action(arguments), debug="--debug" in options, as_json=as_json)


def load_verb(name: str) -> VerbModule:
    """Import the module of a verb."""
    return cast(VerbModule, importlib.import_module(VERBS[name].module))


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(_overview(), file=sys.stderr)
        return 2
    first, *rest = arguments
    if first in ("-h", "--help"):
        print(_overview())
        return 0
    if first == "--version":
        return _tell_version("chimera")
    if first not in VERBS:
        _refuse_verb(first)
    return _run_verb(first, rest, prog=f"chimera {first}")


def _tell_version(prog: str) -> int:
    from configs.version import VERSION

    print(f"{prog} {VERSION}")
    return 0


def _run_verb(name: str, arguments: list[str], *, prog: str) -> int:
    parser = _Parser(prog=prog, description=f"{VERBS[name].summary}.", allow_abbrev=False)
    verb = load_verb(name)
    verb.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="answer, and fail, in JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.refuse(unknown)
    return verb.run(args)


def _overview() -> str:
    width = max(len(name) for name in VERBS)
    verbs = "\n".join(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: chimera VERB [arguments]\n\n"
        "Ternary recurrent language models on the CPU.\n\n"
        f"verbs:\n{verbs}\n\n"
        "options:\n"
        "  -h, --help  show this, or with a verb what the verb takes\n"
        "  --version   show the version\n"
        "  --json      after a verb: answer, and fail, in JSON\n"
        "  --debug     after a verb: show the traceback of an error"
    )


def _refuse_verb(name: str) -> NoReturn:
    import difflib

    from configs.errors import UsageError

    if name.startswith("-"):
        raise UsageError(f"{name!r} is no option of `chimera` itself", hint="Options follow the verb.")
    near = difflib.get_close_matches(name, VERBS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"The verbs are: {', '.join(VERBS)}."
    raise UsageError(f"there is no verb {name!r}", hint=hint)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of ours, so that they take the same form as all others."""

    def print_help(self, file: Any = None) -> None:
        # argparse would swallow a closed pipe, or leave it for the interpreter to meet as it exits.
        print(self.format_help(), end="", file=file, flush=True)

    def error(self, message: str) -> NoReturn:
        from configs.errors import UsageError

        raise UsageError(message, hint=f"See: {self.prog} --help")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Complain of words that mean nothing here, and name the option that was perhaps meant."""
        import difflib

        from configs.errors import UsageError

        hint = f"See: {self.prog} --help"
        option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
        if option is None:
            hint = f"A text of several words stands in quotes. {hint}"
        elif near := difflib.get_close_matches(option, self._option_string_actions, n=1):
            hint = f"Did you mean {near[0]}? {hint}"
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}", hint=hint)


if __name__ == "__main__":
    sys.exit(main())
