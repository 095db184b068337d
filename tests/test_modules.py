"""Every notebook that nbdev-test would run: a module's examples are its tests.

Two lines in a notebook's first code cell change how: `#| slow_notebook 40` leaves it out of `make quick` (about how many seconds it takes),
`#| fresh_process` gives it a process in which nothing is imported yet.
"""
import ast, re, warnings

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_notebook
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


def run(path, folder, fresh=False):
    "exit code and text of a notebook's process"
    p = process(path, folder/"said.txt", fresh)
    try: p.join(30*60)
    finally: p.kill()
    p.join()
    return p.exitcode, (folder/"said.txt").read_text()


@pytest.mark.parametrize("path, fresh", list(cases()))
def test_notebook(path, fresh, tmp_path):
    code, said = run(path, tmp_path, fresh)
    assert code == 0, f"exit code {code}\n{said[-8000:]}"


def made(path, *cells):
    nbformat.write(new_notebook(cells=[new_code_cell(c) for c in cells]), path)
    return path


def test_a_failing_cell_is_shown_with_its_text(tmp_path):
    code, said = run(made(tmp_path/"a.ipynb", "#| slow\n1/0", "def f(x): return 1/x", "# divides\nprint('so far')\nf(0)", "raise KeyError('never reached')"), tmp_path)
    assert code == 1 and "a.ipynb, cell 3: ZeroDivisionError" in said and "# divides\nprint('so far')\nf(0)\n\nso far" in said and "in f\n" in said and "KeyError" not in said, said


def test_a_process_that_dies_is_a_failure(tmp_path):
    assert run(made(tmp_path/"a.ipynb", "import os; os.kill(os.getpid(), 9)"), tmp_path)[0] == -9


def test_nothing_of_a_notebook_reaches_the_next(tmp_path):
    change = """import os, sys, warnings, numpy, keras, matplotlib.pyplot as plt
os.environ["LEFT"] = "1"; os.chdir("/"); sys.path.append("/left"); warnings.simplefilter("error"); plt.figure(); plt.rcParams["font.size"] = 77.
keras.config.set_floatx("float64"); numpy.left = 1"""
    look = """import os, sys, warnings, numpy, keras, matplotlib.pyplot as plt
assert "LEFT" not in os.environ and os.getcwd() != "/" and "/left" not in sys.path and ("error", None, Warning, None, 0) not in warnings.filters
assert not plt.get_fignums() and plt.rcParams["font.size"] != 77 and keras.config.floatx() == "float32" and not hasattr(numpy, "left")"""
    for cells in ([change], [look]): assert run(made(tmp_path/"a.ipynb", *cells), tmp_path) == (0, "")


def test_a_fresh_process_has_nothing_imported(tmp_path):
    look = "import os, sys; assert 'TF_ENABLE_ONEDNN_OPTS' not in os.environ and not {'tensorflow', 'pandas', 'catscans'} & set(sys.modules)"
    assert run(made(tmp_path/"a.ipynb", look), tmp_path, fresh=True) == (0, "")


def quick_tests():
    "(name of a module, file of tests) of whatever a test that `make quick` runs imports, in its file or in itself"
    is_slow = lambda f: any("slow" in ast.unparse(d) for d in f.decorator_list)
    for path in sorted((ROOT/"tests").glob("test_*.py")):
        body = ast.parse(path.read_text()).body
        tests = [f for f in body if isinstance(f, ast.FunctionDef) and f.name.startswith("test_") and not is_slow(f)]
        shared = [n for n in body if not (isinstance(n, ast.FunctionDef) and n.name.startswith("test_"))] if tests else []
        for n in (n for part in (*shared, *tests) for n in ast.walk(part)):
            if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("catscans."):
                yield from ((name, path.name) for name in (n.module, *(f"{n.module}.{a.name}" for a in n.names)))


def test_every_module_has_a_quick_test():
    "what is left out of `make quick` as a notebook is still touched by a test that is not"
    touched = {name for name, _ in quick_tests()}
    left_out = [p.id for p in cases() if any(m.name == "slow" for m in p.marks)]
    module = lambda id: "catscans." + id.replace("/", ".").replace(id.split("/")[1], re.sub(r"^\d+_", "", id.split("/")[1]))
    # every training goes through these two
    touched |= {"catscans.models.backend", "catscans.training.engines"} if "catscans.training.trainer" in touched else set()
    alone = [i for i in left_out if not i.startswith(("guides/", "paper/")) and module(i) not in touched]
    assert len(left_out) > 10 and not alone, f"make quick runs no test of {', '.join(alone)}"
