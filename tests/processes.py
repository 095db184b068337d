"""A process of its own for each notebook, forked from one that has the heavy libraries imported already.

Nothing of a notebook reaches the next one: its process ends with it. What is shared are the imports, which cost more than most notebooks.
"""
import multiprocessing, os, sys, traceback
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
# as pytest was started (conftest.py imports this file): importing catscans changes it, and so do tests; xdist says 80 columns to its workers
BEFORE = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
HEAVY = ["numpy", "pandas", "matplotlib.pyplot", "scipy.stats", "scipy.optimize", "sklearn.linear_model", "statsmodels.api", "seaborn", "nbdev.test", "keras"]
# a process that runs Metal's or JAX' threads must not be forked
FORKED = sys.platform == "linux" and os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
CELL_SECONDS = 600


def process(path, said, fresh=False):
    "A started process that executes the notebook at `path` and writes what goes wrong to the file `said`; its exit code is 0 where all cells ran."
    how = multiprocessing.get_context("forkserver" if FORKED and not fresh else "spawn")
    env = BEFORE | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    if how.get_start_method() == "forkserver":
        how.set_forkserver_preload(HEAVY)
        env = {"TF_ENABLE_ONEDNN_OPTS": "1"} | env          # what catscans asks for before it imports TensorFlow, which here is there first
    p = how.Process(target=execute, args=(path, said))
    with mock.patch.dict(os.environ, env, clear=True): p.start()
    return p


def execute(path, said):
    "Execute the cells of a notebook that nbdev-test would; exit with 1 at the first that fails."
    with open(said, "w") as f:
        for fd in (1, 2): os.dup2(f.fileno(), fd)
    import faulthandler
    from execnb.shell import CaptureShell
    from fastcore.basics import AttrDict
    from nbdev.config import get_config
    from nbdev.test import nb_test_cells
    faulthandler.enable()
    os.environ["IN_TEST"] = "1"
    sys.path.insert(0, str(ROOT))
    os.chdir(path.parent)
    cells, shell = nb_test_cells(path, get_config(ROOT).tst_flags.split()), CaptureShell(path)
    try: shell.run_all(AttrDict(cells=cells), exc_stop=True, cell_timeout=CELL_SECONDS)
    except BaseException as e:
        cell = next((c for c in cells if c.idx_ + 1 == shell._cell_idx), None)
        print(f"{path.name}, cell {shell._cell_idx}: {type(e).__name__}")
        if cell is not None:
            print("", cell.source, "", sep="\n")
            for o in cell.get("outputs", []):
                if o["output_type"] == "stream": print("".join(o["text"]))
        traceback.print_exception(e)
        sys.stdout.flush(); sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(0)                                             # threads that a notebook left behind keep nobody waiting
