"The notebooks are the source: what is exported is what they hold, and papermill finds what it needs."
import json, shutil, subprocess, sys
from pathlib import Path

import nbformat
import pytest

from catscans.core.basics import UserError
from catscans.core.grid import PROFILES
from catscans.study import notebooks
from catscans.study import plan
from fakes import ROOT

PAPER = sorted((ROOT/"nbs"/"paper").glob("*.ipynb"))
ALL = sorted(f for f in (ROOT/"nbs").rglob("*.ipynb") if not any(p.startswith((".", "_")) for p in f.relative_to(ROOT).parts))
name = lambda f: str(f.relative_to(ROOT/"nbs"))


def test_every_notebook_of_the_workflow_is_there():
    assert {s.notebook for p in (*PROFILES, plan.PUBLISHED) for s in plan.plan(p)} == {f.stem for f in PAPER}


@pytest.mark.parametrize("path", PAPER, ids=name)
def test_paper_notebook(path):
    nb = nbformat.read(path, 4)
    known = notebooks.parameters_of(path)                                   # one tagged cell with literals only
    tagged = next(c for c in nb.cells if "parameters" in c.metadata.get("tags", []))
    assert len(tagged.source.splitlines()) == len(known), "one parameter per line"
    asked = {k for p in (*PROFILES, plan.PUBLISHED) for s in plan.plan(p) if s.notebook == path.stem for k in s.parameters}
    assert asked <= set(known), f"the workflow passes {asked - set(known)}"
    assert not any(c.get("outputs") for c in nb.cells), "committed without outputs"


@pytest.mark.parametrize("path", PAPER, ids=name)
def test_unknown_parameters_are_refused(path):
    with pytest.raises(UserError, match="unknown parameter sauce; allowed are"): notebooks.check_parameters(path, dict(sauce="dtd"))


@pytest.mark.parametrize("path", ALL, ids=name)
def test_form(path):
    nb = json.loads(path.read_text())
    assert (nb["nbformat"], nb["nbformat_minor"]) == (4, 5)
    ids = [c["id"] for c in nb["cells"]]
    assert len(set(ids)) == len(ids)
    assert path.stat().st_size < 200_000
    assert not any(o["output_type"] == "error" for c in nb["cells"] for o in c.get("outputs", []))


def test_paper_notebooks_are_not_run_by_nbdev(): assert (ROOT/"nbs"/"paper"/".notest").exists()


def test_export_and_cleaning_are_fresh(tmp_path):
    for f in ("settings.ini", "pyproject.toml", "setup.py"): shutil.copy(ROOT/f, tmp_path)
    for d in ("nbs", "catscans"): shutil.copytree(ROOT/d, tmp_path/d, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    bin = Path(sys.executable).parent
    for command in ("nbdev-clean", "nbdev-export"):
        p = subprocess.run([bin/command], cwd=tmp_path, capture_output=True, text=True)
        assert p.returncode == 0, p.stderr
    for d, what in (("catscans", "*.py"), ("nbs", "*.ipynb")):
        made, kept = ({f.relative_to(r/d): f.read_text() for f in (r/d).rglob(what)} for r in (tmp_path, ROOT))
        assert sorted(made) == sorted(kept)
        assert [str(f) for f in made if made[f] != kept[f]] == [], "run nbdev-clean and nbdev-export, then commit"
