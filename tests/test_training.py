"Training repeats itself: after a kill, after a reset, in another process."
import os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest

from catscans import records
from catscans.transfer import PHASES
from fakes import ROOT

RUN = dict(source="random", target="toy-chest", profile="toy")
EXECUTE = f"from catscans.core import Run; from catscans.transfer import execute; execute(Run(**{RUN!r}))"


def environment(folder):
    (folder/"nbs").mkdir(parents=True, exist_ok=True)
    (folder/"settings.ini").touch()
    env = {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")}
    return dict(env, CATSCANS_PROJECT=str(folder), PYTHONPATH=str(ROOT), TF_CPP_MIN_LOG_LEVEL="3", CATSCANS_CHECKPOINT_EVERY="0")


def record_in(folder): return records.read(next((folder/"results"/"toy"/"records").glob("*.json")))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([sys.executable, "-c", EXECUTE], env=environment(folder), check=True, capture_output=True)
    return folder


def test_killed_and_resumed_ends_the_same(undisturbed, tmp_path):
    "kill -9 at three moments of one run; what comes out equals the undisturbed run but for time and energy"
    env, rng = environment(tmp_path), np.random.default_rng(0)
    checkpoints = tmp_path/"work"/"toy"/"checkpoints"
    kills = 0
    for wanted in (1, 2, 4):   # kill once this many files of progress have been seen, at a random moment after
        p = subprocess.Popen([sys.executable, "-c", EXECUTE], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.time()+200
        while p.poll() is None and time.time() < end and len(list(checkpoints.glob("*/fold*.npz"))) < wanted: time.sleep(.05)
        time.sleep(float(rng.uniform(0, .5)))
        if p.poll() is None: p.send_signal(signal.SIGKILL); kills += 1
        p.wait()
    assert kills >= 2
    assert not list((tmp_path/"results").rglob("*.json")), "a killed run has no record"
    subprocess.run([sys.executable, "-c", EXECUTE], env=env, check=True, capture_output=True)
    a, b = record_in(undisturbed), record_in(tmp_path)
    assert [f["weights_sha256"] for f in a["folds"]] == [f["weights_sha256"] for f in b["folds"]]
    np.testing.assert_array_equal(records.predictions(a).p, records.predictions(b).p)
    assert records.equal(a, b), records.differences(a, b)
    assert not list(checkpoints.glob("*")), "nothing is left behind"


ONE_FOLD = """
import json, sys
from catscans.core import Run, digest, get_profile, seed_for
from catscans.datasets import load
from catscans.models import weights_sha256
from catscans.splits import make_splits
from catscans.training import Trainer, fit, recipe_for, recipe_key, set_threads
run, profile = Run(**{run!r}), get_profile("toy")
set_threads(profile.threads)
recipe, images = recipe_for("toy", "finetune", run.target), load(run.target, size=profile.size)
splits = make_splits(images.y, images.groups, run.protocol, profile.folds, profile.seed)
key = digest(digest(run.slug), seed_for(run.slug), recipe_key(recipe, precision=False), images.fingerprint, splits.fingerprint, profile.arch, "")
trainer, fold = Trainer(len(images.classes), profile.size, recipe, profile.arch), splits.folds[2]
fit(trainer, images.x, images.y, fold.train, seed_for(key, "fold", 2))
trainer.recalibrate(images.x, images.y, fold.train, seed_for(key, "fold", 2))
print("HASH", weights_sha256(trainer.weights()))
"""


@pytest.mark.skipif(not os.environ.get("CATSCANS_SLOW"), reason="CATSCANS_SLOW is not set: about ten minutes")
def test_killed_at_twenty_random_moments(undisturbed, tmp_path):
    "kill -9 anywhere between start and end, twenty times; whenever a run does end, it ends like the undisturbed one"
    env, rng, want, kills, ends = environment(tmp_path), np.random.default_rng(1), record_in(undisturbed), 0, 0
    while True:
        start = time.time()
        p = subprocess.Popen([sys.executable, "-c", EXECUTE], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            error = p.communicate(timeout=None if kills == 20 else float(rng.uniform(0, 1.2*want["timing"]["wall_s"]+5)))[1]
        except subprocess.TimeoutExpired:
            p.send_signal(signal.SIGKILL); p.communicate(); kills += 1
            print(f"killed {kills} times, now after {time.time()-start:.1f} s", flush=True)
            continue
        assert p.returncode == 0, error[-2000:]
        ends += 1
        got = record_in(tmp_path)
        assert records.equal(want, got), records.differences(want, got)
        if kills == 20: break
        next((tmp_path/"results"/"toy"/"records").glob("*.json")).unlink()      # ended before its next kill: from the beginning
    print(f"{kills} kills, {ends} ends equal to the undisturbed run's")


TWENTY = """
import numpy as np, psutil
from catscans.images import Images
from catscans.training import Recipe, set_threads
from catscans.transfer import finetune
set_threads(1)
rng, used = np.random.default_rng(0), []
images = Images(x=rng.integers(0, 256, (200, 32, 32, 3)).astype("uint8"), y=np.arange(200) % 2, groups=np.arange(200).astype(str), classes=["a", "b"], card=None,
                fingerprint="", name="noise", paths=np.arange(200).astype(str))
note = lambda *a: used.append(psutil.Process().memory_info().rss)      # before each fold
finetune(None, images, Recipe(epochs=1, batch=32), folds=20, arch="resnet50-conv2", max_train=64, start_of_fold=note)
note()
print("MEMORY", *used)
"""


@pytest.mark.skipif(not os.environ.get("CATSCANS_SLOW"), reason="CATSCANS_SLOW is not set: twenty folds in one process")
def test_no_growth_over_twenty_folds(tmp_path):
    p = subprocess.run([sys.executable, "-c", TWENTY], env=environment(tmp_path), capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    used = [int(b) for b in p.stdout.split("MEMORY ")[1].split()]
    print(f"memory before each fold and after the last, MiB: {[b >> 20 for b in used]}")
    assert len(used) == 21 and abs(used[20]/used[2] - 1) < .05, used


def test_third_fold_alone_in_a_fresh_process(undisturbed, tmp_path):
    "a fold after two resets equals the same fold as the first thing that a process does"
    p = subprocess.run([sys.executable, "-c", ONE_FOLD.replace("{run!r}", repr(RUN))], env=environment(tmp_path), capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    assert p.stdout.split("HASH ")[1].strip() == record_in(undisturbed)["folds"][2]["weights_sha256"]


def test_record_holds_what_the_metrics_follow_from(undisturbed):
    from sklearn.metrics import roc_auc_score
    rec = record_in(undisturbed)
    from catscans.core import unpack
    fold, y, p = (unpack(rec["predictions"][k]) for k in ("fold", "y", "p"))
    for f in rec["folds"]:
        at = fold == f["fold"]
        assert f["auc_ovr_weighted"] == pytest.approx(roc_auc_score(y[at], p[at, 1]), abs=1e-6)
    assert rec["settings"]["batchnorm"] == "recalibrate" and rec["splits"]["shared_group_rate"] == 0
    assert rec["settings"]["precision"] == "float32", "settled, not auto"
    assert rec["protocol"] == "grouped" and rec["strategy"] == "random"
    t = rec["timing"]
    assert 0 < t["trace_s"] and 0 < t["train_s"] <= t["wall_s"] and sum(t[f"{k}_s"] for k in PHASES) <= t["wall_s"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    from catscans.core import UserError
    from catscans.training import _load_checkpoint
    bad = tmp_path/"fold1-checkpoint.npz"
    bad.write_bytes(b"PK\x03\x04 not a whole archive")
    with pytest.raises(UserError, match="fold1-checkpoint.npz is damaged"): _load_checkpoint(bad, "key", None)
