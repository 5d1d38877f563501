"""How a command ends: exit codes, and errors as one line on stderr."""

import contextlib
import os
import signal
import sys
import threading
import warnings

FAILED = 1
UNREADABLE = 3  # the work is done, but some images could not be read
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE
DEBUG = "REACTOOD_DEBUG"  # an environment variable: show where an error comes from

# Errors whose text is written for users; others are named by their type, too.
EXPLAINED = ImportError, OSError, RuntimeError, TypeError, ValueError


class UsageError(Exception):
    """The options do not go together; the text is shown with the command's usage."""


_interrupted = threading.Event()


def run_command(run, options):
    """Run a command and return its exit code."""
    with _interrupts_noted():
        return _run(run, options)


def check_interrupted():
    """Raise KeyboardInterrupt if there was a Ctrl-C that has stopped nothing.

    Python loses the exception where it is raised in code that cannot pass it on, such
    as the callbacks that run when a reading process is started.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _run(run, options):
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = run(options)
        sys.stdout.flush()
    except UsageError:
        raise
    except BrokenPipeError:
        _forget_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        say(f"reactood {options.command}: stopped by Ctrl-C")
        return INTERRUPTED
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        say(f"reactood {options.command}: {described(error)}")
        return FAILED
    return code or 0


@contextlib.contextmanager
def _interrupts_noted():
    """Note each Ctrl-C; after it, be silent about what cannot be cleaned up."""
    _interrupted.clear()
    hook, before = sys.unraisablehook, signal.getsignal(signal.SIGINT)

    def stop(number, frame):
        _interrupted.set()
        sys.unraisablehook = lambda error: None
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    noted = main and before is signal.default_int_handler
    if noted:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if noted:
            signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook


def described(error):
    """Return an error's text as one line."""
    text = one_line(error)
    if isinstance(error, EXPLAINED) and text:
        return text
    return f"{type(error).__name__}: {text}"


def one_line(text):
    """Return a text without line breaks."""
    return " ".join(str(text).split())


def say(text):
    """Write words to stderr, where they are not mixed with results."""
    print_text(text, sys.stderr)


def print_text(text, stream=None):
    """Print a text, with escapes for what the stream, or stdout, cannot show.

    A file's name may have bytes that are no text.
    """
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    shown = text.encode(encoding, "backslashreplace").decode(encoding)
    print(shown, file=stream, flush=stream is sys.stderr)


def _show_warning(message, category, filename, lineno, file=None, line=None):
    say(f"reactood: warning: {one_line(message)}")


def _forget_stdout():
    """Keep Python from writing to a closed pipe once more when it ends."""
    with contextlib.suppress(OSError, ValueError):  # in tests it may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
