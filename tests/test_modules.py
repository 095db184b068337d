"""Every notebook that nbdev-test would run: a module's examples are its tests.

Two lines in a notebook's first code cell change how: `#| slow_notebook 40` leaves it out of `make quick` (about how many seconds it takes),
`#| fresh_process` gives it a process in which nothing is imported yet.
"""
import warnings

import pytest
from fastcore.basics import str2bool
from fastcore.nbio import nb_frontmatter, read_nb

from fakes import ROOT
from processes import process

NBS = ROOT/"nbs"


def cases():
    "the notebooks below nbs/, each with its marks; nbdev-test leaves out the same"
    for path in sorted(NBS.rglob("*.ipynb")):
        if any(p.startswith((".", "_")) for p in path.relative_to(NBS).parts) or (path.parent/".notest").exists(): continue
        nb = read_nb(path)
        with warnings.catch_warnings(action="ignore"): told = nb_frontmatter(nb)        # it warns of every opening list that is none
        code = [c for c in nb.cells if c.cell_type == "code"]
        if not code or str2bool(told.get("skip_exec", False)): continue
        said = code[0].directives
        marks = [pytest.mark.slow(int(said["slow_notebook"] or 0))] if "slow_notebook" in said else []
        yield pytest.param(path, "fresh_process" in said, id=path.relative_to(NBS).with_suffix("").as_posix(), marks=marks)


@pytest.mark.parametrize("path, fresh", cases())
def test_notebook(path, fresh, tmp_path):
    p = process(path, tmp_path/"said.txt", fresh)
    try: p.join()
    finally: p.kill()
    assert p.exitcode == 0, f"exit code {p.exitcode}\n{(tmp_path/'said.txt').read_text()[-8000:]}"
