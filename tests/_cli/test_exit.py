"""Exit codes, and errors as one line."""

import io
import signal
import sys
import warnings
from types import SimpleNamespace

import pytest

from reactood._cli._exit import UsageError, check_interrupted, run_command

OPTIONS = SimpleNamespace(command="fit")


def raising(error):
    def run(options):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (FileNotFoundError(2, "No such file", "a.png"), "[Errno 2] No such"),
        (KeyError("name"), "KeyError: 'name'"),
        (ValueError(), "ValueError: "),
        (ValueError("name \udcff"), r"name \udcff"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(capsys, error, line):
    assert run_command(raising(error), OPTIONS) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"reactood fit: {line}") and "Traceback" not in err


def test_the_traceback_is_there_on_request(monkeypatch):
    monkeypatch.setenv("REACTOOD_DEBUG", "1")
    with pytest.raises(ValueError, match="because"):
        run_command(raising(ValueError("because")), OPTIONS)


def test_codes_of_a_run(capsys):
    assert run_command(lambda options: None, OPTIONS) == 0
    assert run_command(lambda options: 3, OPTIONS) == 3
    assert run_command(raising(KeyboardInterrupt()), OPTIONS) == 130
    assert capsys.readouterr().err == "reactood fit: stopped by Ctrl-C\n"
    assert run_command(raising(BrokenPipeError()), OPTIONS) == 141
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError):
        run_command(raising(UsageError()), OPTIONS)


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C raise KeyboardInterrupt, as at a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_ctrl_c_that_python_loses(capsys, ctrl_c):
    class Cleaned:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)  # its exception cannot be passed on

    def run(options):
        thing = Cleaned()
        del thing
        check_interrupted()

    before = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    assert run_command(run, OPTIONS) == 130
    assert capsys.readouterr().err == "reactood fit: stopped by Ctrl-C\n"
    assert before == (sys.unraisablehook, signal.getsignal(signal.SIGINT))
    assert run_command(lambda options: check_interrupted(), OPTIONS) == 0


def test_a_pipe_that_is_closed_before_the_end_of_a_small_output(monkeypatch):
    class Closed(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert run_command(lambda options: print("x"), OPTIONS) == 141


@pytest.mark.filterwarnings("always")
def test_a_warning_is_one_line(capsys):
    def run(options):
        warnings.warn("this is\nodd", stacklevel=1)

    show = warnings.showwarning
    assert run_command(run, OPTIONS) == 0
    assert capsys.readouterr().err == "reactood: warning: this is odd\n"
    assert warnings.showwarning is show


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["score"], "DETECTOR"),
        (["score", "det.safetensors"], "IMAGES"),
        (["score", "det.safetensors", "x", "-o", "scores.txt"], ".csv or .jsonl or"),
        (["fit", "--id", "x", "-o", "det.safetensors"], "--model"),
        (["fit", "--model", "resnet50", "-o", "det.safetensors"], "--id"),
        (["fit", "--model", "m", "--id", "x", "-o", "det.pkl"], ".safetensors"),
        (["fit", "--percentile", "0"], "(0, 100], or none"),
        (["fit", "--percentile", "high"], "(0, 100], or none"),
        (["fit", "--alpha", "5"], "such as 0.05"),
        (["fit", "--limit", "0"], "at least 1"),
        (["fit", "--batch-size", "many"], "at least 1"),
        (["fit", "--score", "energie"], "centered_energy"),
        (["tune", "--id", "x", "-o", "t.safetensors"], "DETECTOR and --model"),
        (["export", "det.safetensors"], "-o"),
        (["export", "det.safetensors", "-o", "det.pt"], ".onnx"),
        (["info"], "DETECTOR"),
    ],
)
def test_wrong_usage(run, capsys, arguments, text):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: reactood ") and text in err
    assert f"reactood {arguments[0]}: error: " in err


def test_scores_are_those_of_the_package():
    from reactood._cli._options import ENGINES, PRECISIONS, SCORES
    from reactood._networks._engines import DTYPES
    from reactood._networks._engines import ENGINES as KNOWN
    from reactood._scoring._scores import SCORES as FUNCTIONS

    assert set(SCORES) == set(FUNCTIONS)
    assert set(ENGINES) == set(KNOWN) and set(PRECISIONS) == set(DTYPES)
