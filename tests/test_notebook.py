"""The notebook runs from top to bottom, and holds what it showed when it did."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebooks" / "analysis.ipynb"


@pytest.fixture
def cells():
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_it_was_executed(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 7


def test_it_runs(cells, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("%matplotlib inline\n", "")
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    pyplot.close("all")
    assert 60 <= names["tuned"].best_percentile_ <= 99
    assert names["report"]["letters"]["auroc"] > 0.9
    assert names["final"].predict(names["X_id"]).mean() > 0.7
    assert "p-value" in capsys.readouterr().out
