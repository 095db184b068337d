"A project whose notebooks take the real parameters but only pretend to train: the engine, the kernels and papermill are real."
import atexit, json, os, shutil, subprocess, sys, tempfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
TRAIN = """
import os, time
from catscans.core.basics import UserError
from catscans.core.grid import Run
from catscans.records.examples import example_record
from catscans.records.store import write
run = Run(source, globals().get("target"), profile, protocol, seed)
if run.slug == os.environ.get("FAKE_FAIL"): raise ValueError("a planted fault")
if run.slug == os.environ.get("FAKE_USER_ERROR"): raise UserError("images/7.png cannot be read")
if run.slug == os.environ.get("FAKE_DIE"): os.kill(os.getpid(), 9)
time.sleep(float(os.environ.get("FAKE_SLEEP", 0)))
if run.target is None:
    import numpy as np
    from catscans.models.weights import save_weights
    save_weights(dict(a=np.frombuffer(run.slug.encode(), "uint8")), run.weights)
elif run.source != "random": assert Run(run.source, None, profile, protocol, seed).weights.exists()
rec = example_record(run)
from dataclasses import asdict
from catscans.datasets.loading import load
from catscans.study.done import expected_settings
rec["settings"] |= expected_settings(run)
for d in filter(None, rec["data"].values()): d["fingerprint"] = load(d["name"], size=rec["settings"]["size"]).fingerprint
write(rec)
"""
SIMILARITY = """
import sys
sys.path.insert(0, "%s")
from fakes import similarity_record
from catscans.records.store import write
write(similarity_record(profile, protocol, seed))
""" % Path(__file__).resolve().parent
DRAW = """
from catscans.core.files import atomic, figures_dir
with atomic(figures_dir({profile})/"fig3_auc.csv") as tmp: tmp.write_text("drawn")
"""


def parameters_cell(name):
    path = ROOT/"nbs"/"paper"/f"{name}.ipynb"
    if not path.exists(): return "profile = 'toy'"
    cells = nbformat.read(path, 4).cells
    return next((c.source for c in cells if "parameters" in c.metadata.get("tags", [])), "")


def write_notebook(path, code, parameters):
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(code)]
    nb = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)


_stores = []


def shared_stores():
    "generated images are made once for all projects of a test process"
    if not _stores:
        _stores.append(Path(tempfile.mkdtemp(prefix="catscans-stores-")))
        atexit.register(shutil.rmtree, _stores[0], ignore_errors=True)
    return _stores[0]


def fake_project(folder):
    "A project in `folder` with the real workflow and pretending notebooks; returns the environment to run it in."
    (folder/"work").mkdir()
    (folder/"work"/"stores").symlink_to(shared_stores())
    shutil.copytree(ROOT/"workflow", folder/"workflow")
    shutil.copy(ROOT/"settings.ini", folder)
    for name, code in dict(pretrain=TRAIN, finetune=TRAIN, similarity=SIMILARITY, results=DRAW.format(profile="profile"),
                           audit=DRAW.format(profile="'published'")).items():
        write_notebook(folder/"nbs"/"paper"/f"{name}.ipynb", code, parameters_cell(name))
    env = {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")}
    return dict(env, CATSCANS_PROJECT=str(folder), PYTHONPATH=str(ROOT))


def similarity_record(profile, protocol, seed):
    "a record of distances, whole, of one made-up distance"
    from catscans.records.store import ENV_KEYS
    return dict(schema=1, kind="similarity", profile=profile, protocol=protocol, seed=seed, settings={}, env=dict.fromkeys(ENV_KEYS, ""), timing=dict(started="2000-01-01T00:00:00", wall_s=0.),
                distances=[dict(measure="made up", source="a", target="b", value=1., sd=None, n=1)])


def sound_record(run):
    "a made-up fine-tuning whose metrics are those of the predictions that it holds"
    from catscans.metrics.scores import summarise
    from catscans.records.examples import example_record
    from catscans.records.store import predictions
    from catscans.transfer.run import fold_means
    rec = example_record(run)
    a, names = predictions(rec), list(rec["folds"][0]["per_class"])
    for f in rec["folds"]:
        at = a.fold == f["fold"]
        f.update(summarise(a.y[at], a.p[at], names), n_test=int(at.sum()))
    return rec | dict(metrics=fold_means(rec["folds"]))


def command(*args): return [sys.executable, "-c", "import sys; from catscans.study import main; sys.exit(main())", *args]


def catscans(env, *args, timeout=240, **more):
    "Run the command line; returns the completed process with its text, a line for each thing that it says."
    return subprocess.run(command(*args), env={"COLUMNS": "9999"} | dict(env, **more), capture_output=True, text=True, timeout=timeout, cwd=env.get("CATSCANS_PROJECT"))


def records_of(folder, profile="toy"):
    return {f.stem: json.loads(f.read_text()) for f in sorted((Path(folder)/"results"/profile/"records").glob("*.json"))}
