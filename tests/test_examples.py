"""The notebook in examples/ runs from top to bottom and shows what its text says."""

import ast
import json

from support.servers import ROOT

NOTEBOOK = ROOT / "examples" / "why.ipynb"


def results(cells):
    """The values of the last expressions of code cells."""
    names: dict[str, object] = {}
    for cell in cells:
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, NOTEBOOK.name, "exec"), names)  # noqa: S102 - our own notebook
        if last is not None:
            yield eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)  # noqa: S307


def test_the_notebook_runs_in_its_folder(tmp_path, monkeypatch):
    (tmp_path / "examples").mkdir()
    (tmp_path / "service").symlink_to(ROOT / "service")
    monkeypatch.chdir(tmp_path / "examples")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    answer, why, quality, (shape, _, _), saved = results(
        [cell for cell in cells if cell["cell_type"] == "code"]
    )
    assert "espresso" in answer._repr_html_()
    assert why._repr_html_().count("<p>") == 4
    assert quality["completeness_gap"] < 0.5
    assert shape == (224, 224)
    assert saved.read_bytes().startswith(b"\x89PNG")
