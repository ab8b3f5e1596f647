"""What a verb's end means for the shell: an exit code, and at most one message on stderr.

0 done, 1 failed, 2 usage, 3 model not found or not valid, 4 not enough memory, 130 interrupted.
"""

import errno
import sys
import traceback
from collections.abc import Callable, Iterator

from configs.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MEMORY, ChimeraError
from runtime.cli.report import print_error
from runtime.cli.streams import reader_has_left, settle_stdout

# How libraries say that the system gave them no memory, or no room for another thread's stack.
_NO_MEMORY = ("cannot allocate memory", "failed to map segment", "can't start new thread")


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
    except BrokenPipeError as error:
        _print_traceback(debug)
        if not reader_has_left():
            return _report_unforeseen(error, debug=debug, as_json=as_json)
        # Whoever read has had enough (`chimera … | head`), which is no error.
        settle_stdout()
        return EXIT_DONE
    except ChimeraError as error:
        _print_traceback(debug)
        exit_code = EXIT_MEMORY if _lacks_memory(error) else error.exit_code
        return _report(error, error.message, hint=error.hint, exit_code=exit_code, as_json=as_json)
    except Exception as error:
        _print_traceback(debug)
        if _lacks_memory(error):
            hint = "Close other programs, or choose a smaller model or fewer streams."
            return _report(error, "not enough memory", hint=hint, exit_code=EXIT_MEMORY, as_json=as_json)
        return _report_unforeseen(error, debug=debug, as_json=as_json)


def _report_unforeseen(error: Exception, *, debug: bool, as_json: bool) -> int:
    if isinstance(error, OSError):
        settle_stdout()
        return _report(error, _os_error_message(error), hint="", exit_code=EXIT_FAILED, as_json=as_json)
    if isinstance(error, ModuleNotFoundError):
        message = f"this installation is not whole: the package {error.name} is missing"
        hint = "Install it again: pip install --force-reinstall chimera-edge"
        return _report(error, message, hint=hint, exit_code=EXIT_FAILED, as_json=as_json)
    message = f"a fault in chimera itself: {type(error).__name__}: {error}"
    hint = "" if debug else "Run the same command with --debug and report what it prints."
    return _report(error, message, hint=hint, exit_code=EXIT_FAILED, as_json=as_json)


def _lacks_memory(error: BaseException) -> bool:
    """Whether memory was what failed first: libraries pass it on as errors of other kinds."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or any(words in str(cause).lower() for words in _NO_MEMORY)
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


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
