"Steps of one kind share a process: it is put back between them, and what breaks one of them reaches no other."
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from fakes import catscans, fake_project, records_of

FIND = """
import json, os, random, sys, warnings
import numpy as np, pandas as pd, matplotlib.pyplot as plt
from catscans.core import grid
from catscans.training import engines
from catscans.transfer import folds
random.random()
found = dict(names=sorted(n for n in globals() if n[0] != "_" and n not in ("target", "json")), cwd=os.getcwd(), env=os.environ.get("DIRT"), path=sys.path[:2],
             numpy=np.random.rand(), err=np.geterr(), font=plt.rcParams["font.size"], figures=plt.get_fignums(), rows=pd.get_option("display.max_rows"),
             said=list(folds._SAID), seconds=dict(engines.SECONDS), sources=len(grid.PROFILES["toy"].sources), clock=folds.Progress.__call__.__qualname__,
             warnings=[str(f[:2]) for f in warnings.filters][:3], count=get_ipython().execution_count, out=dict(Out))
with open(os.environ["SEEN"], "a") as f: print(json.dumps([source, globals().get("target"), os.getpid(), found]), file=f)
"""
DIRT = """
os.environ["DIRT"] = "1"; os.chdir("/"); sys.path.insert(0, "dirt"); random.seed(7); np.random.seed(7); np.seterr(all="raise")
plt.rcParams["font.size"] = 3; plt.figure(); plt.ioff(); pd.set_option("display.max_rows", 3); folds._SAID["toy"] = ("said",); engines.SECONDS["step"] = 99.
grid.PROFILES.clear(); folds.Progress.__call__ = print; warnings.simplefilter("error"); more = 1
dirty = 1
dirty
"""


def with_dirt(folder):
    "the trainings of a pretending project look around first and leave everything in disorder"
    for name in ("pretrain", "finetune"):
        path = folder/"nbs"/"paper"/f"{name}.ipynb"
        nb = nbformat.read(path, 4)
        nb.cells = [nb.cells[0], new_code_cell(FIND), *nb.cells[1:], new_code_cell(DIRT)]
        nbformat.write(nb, path)


def seen(folder): return [json.loads(line) for line in (folder/"seen").read_text().splitlines()]


def test_one_process_does_steps_of_a_kind_and_each_finds_it_new(tmp_path):
    "one of them is killed, one fails: the next has a new process, and all others are done"
    env = fake_project(tmp_path)
    with_dirt(tmp_path)
    p = catscans(env, *"run --profile toy --source dtd stl10 sti10 imagenet random --target chest --jobs 1".split(), SEEN=str(tmp_path/"seen"),
                 FAKE_DIE="pretrain-toy-stl10-grouped-s1", FAKE_FAIL="finetune-toy-dtd--toy-chest-grouped-s1")
    assert p.returncode == 1 and "2 of 9 steps failed, 1 were not started" in p.stderr, p.stderr
    assert "DeadKernelError" in p.stderr and "a planted fault" in p.stderr
    assert len(records_of(tmp_path)) == 6
    steps = seen(tmp_path)
    assert len(steps) == 8
    broken = [(s, t) in (("toy-stl10", None), ("toy-dtd", "toy-chest")) for s, t, *_ in steps]
    for before, after, broke in zip(steps, steps[1:], broken): assert (before[2] == after[2]) == (not broke), "a process goes on after a step that went well, and only then"
    for *_, found in steps: assert found == steps[0][3]
    assert steps[0][3]["sources"] == 9 and steps[0][3]["env"] is None and not steps[0][3]["said"]


@pytest.mark.slow(20)
def test_a_process_for_each_step_on_request(tmp_path):
    "CATSCANS_FORKS=each: what is found is what is found by those who share one"
    env = fake_project(tmp_path)
    with_dirt(tmp_path)
    run = "run --profile toy --source dtd random --target chest --jobs 1".split()
    assert catscans(env, *run, SEEN=str(tmp_path/"seen"), CATSCANS_FORKS="each").returncode == 0
    assert len({pid for _, _, pid, _ in seen(tmp_path)}) == 3
    found = lambda: [{k: v for k, v in f.items() if k != "numpy"} for *_, f in seen(tmp_path)]     # NumPy's state is that of the server
    alone = found()
    for f in (tmp_path/"results").rglob("*.json"): f.unlink()
    (tmp_path/"seen").unlink()
    assert catscans(env, *run, SEEN=str(tmp_path/"seen")).returncode == 0
    assert len({pid for _, _, pid, _ in seen(tmp_path)}) == 1
    assert found() == alone
