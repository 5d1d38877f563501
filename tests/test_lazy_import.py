"""Importing the package is cheap, and every public name is there all the same."""

import json
import pickle
import pkgutil
import subprocess
import sys

import pytest

import reactood
from reactood.__main__ import COMMANDS

HEAVY = (
    *("torch", "torchvision", "sklearn", "scipy", "numpy", "matplotlib"),
    *("tqdm", "PIL", "joblib", "pyarrow", "ray"),
)
REPORT = """
import json, resource, sys
usage = resource.getrusage(resource.RUSAGE_SELF)
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps({"modules": list(sys.modules), "cpu": cpu}))
"""


def run(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


def test_the_import_alone_brings_no_library():
    report = json.loads(run("import reactood" + REPORT))
    assert not set(HEAVY) & set(report["modules"])


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_imports_no_library_and_takes_little_time(command):
    code = """
import sys
from reactood.__main__ import main
try:
    main([*sys.argv[1:], "--help"])
except SystemExit as stop:
    assert stop.code == 0
print()
"""
    output = run(code + REPORT, *command)
    report = json.loads(output.splitlines()[-1])
    assert "usage: " in output
    assert not set(HEAVY) & set(report["modules"])
    # Measured: 0.05 s; torch alone takes 2 s.
    assert report["cpu"] < 0.2


def test_a_wrong_command_is_answered_without_torch():
    code = """
from reactood.__main__ import main
try:
    main(["bench"])
except SystemExit as stop:
    assert stop.code == 2
"""
    report = json.loads(run(code + REPORT))
    assert "torch" not in report["modules"]


def test_all_public_modules_are_listed():
    found = {module.name for module in pkgutil.iter_modules(reactood.__path__)}
    public = {name for name in found if not name.startswith("_")}
    assert public == reactood._MODULES
    assert set(reactood.__all__) == reactood._HOMES.keys()


def test_dir_shows_what_is_not_imported_yet():
    names = run("import reactood; print(*dir(reactood))").split()
    assert {*reactood.__all__, *reactood._MODULES, "__version__"} <= set(names)


def test_modules_and_names_are_attributes_at_their_first_use():
    run(
        "import reactood\n"
        "assert reactood.metrics.auroc is reactood.metrics.auroc\n"
        "from reactood import *\n"
        "assert ReActDetector is reactood.detector.ReActDetector"
    )


def test_an_unknown_name_raises_as_in_any_module():
    with pytest.raises(AttributeError, match=r"module 'reactood' has no.*'ReActor'"):
        getattr(reactood, "ReActor")  # noqa: B009
    with pytest.raises(ImportError, match="ReActor"):
        from reactood import ReActor  # noqa: F401


def test_a_pickle_is_read_where_nothing_is_imported_yet():
    data = pickle.dumps(reactood.ReActDetector(percentile=85))
    out = run(
        "import pickle, sys\n"
        "print(pickle.loads(bytes.fromhex(sys.argv[1])).percentile)",
        data.hex(),
    )
    assert out.strip() == "85"
