"""What a verb's end means for the shell: an exit code, and at most one message on stderr.

0 done, 1 failed, 2 usage, 3 model not found or not valid, 4 not enough memory, 130 interrupted.
"""

import os
import sys
import traceback
from collections.abc import Callable

from configs.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MEMORY, ChimeraError
from runtime.cli.report import print_error


def run_guarded(action: Callable[[], int], *, debug: bool, as_json: bool) -> int:
    """Run a verb and turn whatever it raises into its exit code and message."""
    try:
        exit_code = action()
        # What is still buffered is written here, where a closed pipe or a full disk can be dealt with.
        sys.stdout.flush()
        return exit_code
    except KeyboardInterrupt:
        _print_traceback(debug)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`chimera … | head`). That is no news for anybody, and the answer was cut short.
        _print_traceback(debug)
        settle_stdout()
        return EXIT_FAILED
    except ChimeraError as error:
        _print_traceback(debug)
        return _report(error, error.message, hint=error.hint, exit_code=error.exit_code, as_json=as_json)
    except MemoryError as error:
        _print_traceback(debug)
        hint = "Close other programs, or choose a smaller model or fewer streams."
        return _report(error, "not enough memory", hint=hint, exit_code=EXIT_MEMORY, as_json=as_json)
    except OSError as error:
        _print_traceback(debug)
        settle_stdout()
        return _report(error, _os_error_message(error), hint="", exit_code=EXIT_FAILED, as_json=as_json)
    except Exception as error:
        _print_traceback(debug)
        message = f"a fault in chimera itself: {type(error).__name__}: {error}"
        hint = "" if debug else "Run the same command with --debug and report what it prints."
        return _report(error, message, hint=hint, exit_code=EXIT_FAILED, as_json=as_json)


def _report(error: BaseException, message: str, *, hint: str, exit_code: int, as_json: bool) -> int:
    return print_error(
        kind=type(error).__name__, message=message, hint=hint, exit_code=exit_code, as_json=as_json
    )


def _os_error_message(error: OSError) -> str:
    """The system's words and the file, without Python's errno."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"


def _print_traceback(debug: bool) -> None:
    if debug:
        traceback.print_exc()


def settle_stdout() -> None:
    """Point a stdout that takes nothing more at nothing, or the interpreter complains again as it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
