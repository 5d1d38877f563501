"""The conventions of the code: layers, docstrings, where underscore names come from."""

import configparser
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest
from numpydoc.validate import validate

import reactood

ROOT = Path(__file__).parents[1]
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg")
SKIPPED = set(SETTINGS["tool:numpydoc_validation"]["checks"].split()) - {"all"}


PUBLIC = [
    importlib.import_module(f"reactood.{module.name}")
    for module in pkgutil.iter_modules(reactood.__path__)
    if not module.name.startswith("_")
]


def public_names():
    for module in (reactood, *PUBLIC):
        for name in module.__all__:
            thing = getattr(module, name)
            if not isinstance(thing, type | FunctionType):
                continue  # a distribution, documented as scipy does
            yield f"{module.__name__}.{name}"
            if isinstance(thing, type):
                for member, value in vars(thing).items():
                    if not member.startswith("_") and callable(value):
                        yield f"{module.__name__}.{name}.{member}"


@pytest.mark.parametrize("name", list(public_names()))
def test_docstrings_follow_numpydoc(name):
    errors = validate(name)["errors"]
    assert [error for error in errors if error[0] not in SKIPPED] == []


def test_public_names():
    assert reactood.__all__ == [
        "ReActDetector",
        "ReActDetectorCV",
        "TorchFeatureExtractor",
        "make_react_pipeline",
    ]


def test_layers():
    command = "from importlinter.cli import lint_imports; raise SystemExit("
    command += "lint_imports(config_filename='setup.cfg', no_cache=True))"
    result = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_underscore_names_of_scikit_learn_have_one_importer():
    inside = re.compile(r"(from|import) sklearn[\w.]*(\._| import .*\b_)")
    for path in (ROOT / "reactood").rglob("*.py"):
        if path.name != "_sklearn.py":
            assert not inside.search(path.read_text()), path


def test_warnings_have_one_importer():
    for path in (ROOT / "reactood").rglob("*.py"):
        if path.name != "_warnings.py":
            assert "warnings.warn" not in path.read_text(), path


SEARCHES = re.compile(
    r"\b(?:(?:Grid|Randomized)SearchCV|Halving\w+|cross_val\w+|cross_validate"
    r"|CalibratedClassifierCV|TunedThresholdClassifierCV)\("
)
SHUFFLED = re.compile(r"\bcv=(?:cv\b|search\.cv|StratifiedKFold\(|OODSplit\(|Leave)")
FOLDS = re.compile(r"\b(?:Stratified)?KFold\(")


def calls(pattern, text):
    """Yield what each call of a name holds, up to its closing parenthesis."""
    for match in pattern.finditer(text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        yield text[match.start() : end]


def documents():
    """Yield all that shows users how to search: pages, examples and docstrings."""
    yield ROOT / "README.md"
    for folder in ("docs", "examples", "reactood"):
        for path in (ROOT / folder).rglob("*"):
            generated = {"_build", "auto_examples", "api"} & set(path.parts)
            if path.suffix in (".rst", ".md", ".py", ".ipynb") and not generated:
                yield path


def test_searches_in_documents_have_shuffled_stratified_folds():
    n_searches = 0
    for path in documents():
        text = path.read_text()
        if path.suffix == ".py":  # only what is shown, not what the package does
            text = text if "examples" in path.parts else "\n".join(shown(text))
        for call in calls(SEARCHES, text):
            n_searches += 1
            assert SHUFFLED.search(call), f"{path}: {call}"
        for call in calls(FOLDS, text):
            assert "shuffle=True" in call, f"{path}: {call}"
    assert n_searches >= 7


def shown(text):
    """Yield the lines of a module's doctests."""
    for line in text.splitlines():
        if line.strip().startswith((">>>", "...")):
            yield line


def test_the_package_needs_no_extra():
    code = (
        "import sys; sys.modules |= dict.fromkeys(['matplotlib', 'pandas', 'timm']);"
        "import reactood._cli._demo, " + ", ".join(module.__name__ for module in PUBLIC)
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
