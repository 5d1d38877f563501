"""Each example that runs a network runs in a process of its own, as its reader runs it.

In the process of the other tests the network may have been proved by an earlier
example, so that a fault in its first use stays hidden.
"""

import subprocess
import sys
from pathlib import Path

import pytest

# Torch is imported once; each example then has a forked process, where nothing has run.
FORK_FOR_EACH = """
import doctest, importlib, os, pkgutil, sys
import reactood.baselines

options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
names = [m.name for m in pkgutil.walk_packages(reactood.__path__, "reactood.")]
examples = [
    test
    for name in names
    if not name.startswith(("reactood._", "reactood.inspection"))  # plots take long
    for test in doctest.DocTestFinder().find(importlib.import_module(name), name)
    if any("digits_classifier" in example.source for example in test.examples)
]
failed = 0
for test in examples:
    child = os.fork()
    if not child:
        results = doctest.DocTestRunner(optionflags=options).run(test)
        sys.stdout.flush()
        os._exit(bool(results.failed))
    failed += os.waitpid(child, 0)[1] != 0
print(len(examples), "examples,", failed, "failed")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has torch")
def test_each_example_of_a_network_runs_in_a_process_of_its_own():
    result = subprocess.run(
        [sys.executable, "-c", FORK_FOR_EACH],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    count, _, failed, _ = result.stdout.splitlines()[-1].split()
    assert int(failed) == 0, result.stdout
    assert int(count) >= 10
