"Training repeats itself: after a kill, after a reset, in another process."
import json, os, re, signal, subprocess, sys, time

import numpy as np
import pytest

from catscans.core.basics import UserError, unpack
from catscans.records import store
from catscans.records.store import PHASES
from catscans.datasets.images import Images
from catscans.models.resnet import ARCHS
from catscans.training.recipes import Recipe
from catscans.training.trainer import Trainer, fit, guard
from catscans.transfer.folds import finetune
from fakes import ROOT

RUN = dict(source="random", target="toy-chest", profile="toy")
EXECUTE = f"from catscans.core.grid import Run; from catscans.transfer.run import execute; execute(Run(**{RUN!r}))"


def environment(folder):
    (folder/"nbs").mkdir(parents=True, exist_ok=True)
    (folder/"settings.ini").touch()
    env = {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")}
    return dict(env, CATSCANS_PROJECT=str(folder), PYTHONPATH=str(ROOT), TF_CPP_MIN_LOG_LEVEL="3", CATSCANS_CHECKPOINT_EVERY="0")


def record_in(folder): return store.read(next((folder/"results"/"toy"/"records").glob("*.json")))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([sys.executable, "-c", EXECUTE], env=environment(folder), check=True, capture_output=True)
    return folder


@pytest.mark.slow(64)
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
    np.testing.assert_array_equal(store.predictions(a).p, store.predictions(b).p)
    assert store.equal(a, b), store.differences(a, b)
    assert not list(checkpoints.glob("*")), "nothing is left behind"


ONE_FOLD = """
import json, sys
from catscans.core.basics import digest, seed_for
from catscans.core.grid import Run, get_profile
from catscans.datasets.loading import load
from catscans.datasets.splits import make_splits
from catscans.models.backend import set_threads
from catscans.models.weights import weights_sha256
from catscans.training.recipes import recipe_for, recipe_key
from catscans.training.trainer import Trainer, fit
run, profile = Run(**{run!r}), get_profile("toy")
set_threads(profile.threads)
recipe, images = recipe_for("toy", "finetune", run.target), load(run.target, size=profile.size)
splits = make_splits(images.y, images.groups, run.protocol, profile.folds, profile.seed)
key = digest(digest(run.slug), seed_for(run.slug), recipe_key(recipe, precision=False), images.fingerprint, splits.fingerprint, profile.arch, "")
trainer, fold = Trainer(len(images.classes), profile.size, recipe, profile.arch), splits.folds[2]
fit(trainer, images.x, images.y, fold.train, seed_for(key, "fold", 2))
trainer.recalibrate(images.x, fold.train, seed_for(key, "fold", 2))
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
        assert store.equal(want, got), store.differences(want, got)
        assert not list((tmp_path/"work"/"toy"/"checkpoints").rglob("*")), "nothing is left behind, nor are halves"
        if kills == 20: break
        next((tmp_path/"results"/"toy"/"records").glob("*.json")).unlink()      # ended before its next kill: from the beginning
    print(f"{kills} kills, {ends} ends equal to the undisturbed run's")


TWENTY = """
import sys, numpy as np, psutil
from catscans.datasets.images import Images
from catscans.models.backend import set_threads
from catscans.training.recipes import Recipe
from catscans.transfer.folds import finetune
set_threads(1)
rng, used = np.random.default_rng(0), []
images = Images(x=rng.integers(0, 256, (200, 32, 32, 3)).astype("uint8"), y=np.arange(200) % 2, groups=np.arange(200).astype(str), classes=["a", "b"], card=None,
                fingerprint="", name="noise", paths=np.arange(200).astype(str))
note = lambda *a: used.append(psutil.Process().memory_info().rss)      # before each fold
finetune(None, images, Recipe(epochs=2, batch=32), folds=20, max_train=64, workdir=sys.argv[1], start_of_fold=note)   # a checkpoint in each; one copy of this network is 94 MB
note()
print("MEMORY", *used)
"""


@pytest.mark.skipif(not os.environ.get("CATSCANS_SLOW"), reason="CATSCANS_SLOW is not set: twenty folds in one process")
def test_no_growth_over_twenty_folds(tmp_path):
    p = subprocess.run([sys.executable, "-c", TWENTY, str(tmp_path/"folds")], env=environment(tmp_path), capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    used = [int(b) for b in p.stdout.split("MEMORY ")[1].split()]
    print(f"memory before each fold and after the last, MiB: {[b >> 20 for b in used]}")
    assert len(used) == 21 and abs(used[20]/used[2] - 1) < .05, used


PRECISIONS = """
import json, sys
from dataclasses import replace
from catscans.core.grid import get_profile
from catscans.datasets.loading import images_of
from catscans.models.backend import set_threads
from catscans.training.recipes import recipe_for
from catscans.transfer.folds import finetune
p = get_profile("lite"); set_threads(p.threads)
images, recipe = images_of("kermany", p, p.size), recipe_for("lite", "finetune", "kermany")
auc = lambda precision: finetune(None, images, replace(recipe, precision=precision), folds=p.folds, max_train=dict(p.max_train).get("kermany")).auc.tolist()
print("AUC", json.dumps([auc("float32"), auc("mixed_bfloat16")]))
"""


@pytest.mark.skipif(not (os.environ.get("CATSCANS_DATA") and os.environ.get("CATSCANS_SLOW")), reason="ten folds of chest X-rays: set CATSCANS_DATA to the images of lite, and CATSCANS_SLOW=1; "
                    "KERAS_BACKEND=jax for a GPU")
def test_sixteen_bits_cost_less_than_a_fold_is_worth(tmp_path):
    "mean AUC over the same five folds from the same random weights, in float32 and in mixed_bfloat16: they differ by less than the standard deviation over folds"
    env = environment(tmp_path) | dict(CATSCANS_DATA=os.environ["CATSCANS_DATA"])
    p = subprocess.run([sys.executable, "-c", PRECISIONS], env=env, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    whole, half = np.array(json.loads(p.stdout.split("AUC ")[1]))
    print(f"AUC per fold in float32 {whole.round(4)}, in mixed_bfloat16 {half.round(4)}; difference of the means {half.mean()-whole.mean():+.4f}, sd over folds {whole.std(ddof=1):.4f}")
    assert not np.array_equal(whole, half), "both were computed in the same precision"
    assert abs(half.mean() - whole.mean()) < whole.std(ddof=1)


@pytest.mark.slow(12)
def test_third_fold_alone_in_a_fresh_process(undisturbed, tmp_path):
    "a fold after two resets equals the same fold as the first thing that a process does"
    p = subprocess.run([sys.executable, "-c", ONE_FOLD.replace("{run!r}", repr(RUN))], env=environment(tmp_path), capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    assert p.stdout.split("HASH ")[1].strip() == record_in(undisturbed)["folds"][2]["weights_sha256"]


@pytest.mark.slow(1)
def test_record_holds_what_the_metrics_follow_from(undisturbed):
    from sklearn.metrics import roc_auc_score
    rec = record_in(undisturbed)
    fold, y, p = (unpack(rec["predictions"][k]) for k in ("fold", "y", "p"))
    for f in rec["folds"]:
        at = fold == f["fold"]
        assert f["auc_ovr_weighted"] == pytest.approx(roc_auc_score(y[at], p[at, 1]), abs=1e-6)
    assert rec["settings"]["batchnorm"] == "recalibrate" and rec["splits"]["shared_group_rate"] == 0
    assert rec["settings"]["precision"] == "float32", "settled, not auto"
    assert rec["protocol"] == "grouped" and rec["strategy"] == "random"
    t = rec["timing"]
    assert 0 < t["trace_s"] and 0 < t["train_s"] <= t["wall_s"] and sum(t[f"{k}_s"] for k in PHASES) <= t["wall_s"]


# ---- what ends a training before its time: one clear error, and the last good checkpoint as it was

@pytest.fixture(scope="module")
def trainer():
    "ResNet50 cut after its first convolution: what is held here does not depend on the network"
    ARCHS["tiny"] = "pool1_pool"
    yield Trainer(2, 32, Recipe(lr=1e-3, batch=32, epochs=3), arch="tiny")
    del ARCHS["tiny"]


def test_further_networks_in_a_process_are_not_warned_of(trainer, capfd):
    import logging
    import tensorflow as tf
    assert tf.get_logger().getEffectiveLevel() == logging.ERROR
    tf.get_logger().warning("5 out of the last 9 calls triggered tf.function retracing")
    assert "retracing" not in capfd.readouterr().err


@pytest.fixture
def train(trainer, tmp_path):
    "a function that trains with a checkpoint after each epoch; `changes` of the recipe; `on_epoch` is called after an epoch, before its checkpoint"
    x, y = np.random.default_rng(0).integers(0, 256, (96, 32, 32, 3)).astype("uint8"), np.arange(96) % 2
    def run(on_epoch=None, checkpoint=tmp_path/"work"/"fold1-checkpoint.npz", index=np.arange(96), every=0, **changes):
        trainer.use(Recipe(**dict(lr=1e-3, batch=32, epochs=3) | changes))
        history = fit(trainer, x, y, index, 1, None, checkpoint, every, on_epoch=on_epoch)
        return [h["loss"] for h in history], {k: v.copy() for k, v in trainer.weights().items()}
    run.file = tmp_path/"work"/"fold1-checkpoint.npz"
    return run


class Stopped(Exception): pass


def stop(epoch, epochs, log):
    if epoch == 1: raise Stopped


def same(a, b): return a[0] == b[0] and all(np.array_equal(v, b[1][k]) for k, v in a[1].items())


def test_the_end_of_a_slice_loses_no_epoch(train):
    "stopped between two epochs, long before a checkpoint was due; also after the last epoch"
    whole = train(checkpoint=None)
    with pytest.raises(Stopped): train(stop, every=1e6)
    with np.load(train.file) as z: assert len(z["h/loss"]) == 2
    assert same(train(every=1e6), whole)
    train.file.unlink()
    with pytest.raises(Stopped): train(lambda e, n, log: stop(e-1, n, log), every=1e6)
    assert same(train(lambda *_: pytest.fail("nothing is left to train"), every=1e6), whole)


def test_a_nan_loss_is_named_and_the_checkpoint_stays(train):
    "from the second epoch on steps are infinitely long; the first epoch's checkpoint is the good one"
    with pytest.raises(FloatingPointError, match="the loss became nan in epoch 2: lower the learning rate .* the last checkpoint is intact"): train(schedule="step:inf:1")
    with np.load(train.file) as z: assert len(z["h/loss"]) == 1 and all(np.isfinite(z[k]).all() for k in z.files if k[0] in "wo")


def test_weights_that_became_nan_are_not_kept(train, trainer):
    "the loss of an epoch is that before its last step: the step itself can be the one that ruins the weights"
    def ruin(epoch, epochs, log):
        if epoch == 1: trainer.model.get_layer("conv1_conv").bias.assign(np.full(64, np.nan))
    with pytest.raises(FloatingPointError, match="weights became infinite or NaN in epoch 2"): train(ruin)
    with np.load(train.file) as z: assert len(z["h/loss"]) == 1


def test_a_checkpoint_of_another_recipe_is_refused(train):
    whole = train(checkpoint=None)
    with pytest.raises(Stopped): train(stop)
    before = train.file.read_bytes()
    with pytest.raises(UserError, match=r"fold1-checkpoint.npz is of another training \(lr 0.001, now 0.0003; epochs 3, now 5\)"): train(lr=3e-4, epochs=5)
    with pytest.raises(UserError, match=r"of another training \(other images, folds, seed"): train(index=np.arange(64))
    assert train.file.read_bytes() == before
    assert same(train(), whole)


@pytest.mark.parametrize("share", (0, .01, .5, .999))
def test_a_truncated_checkpoint_is_named(train, share):
    with pytest.raises(Stopped): train(stop)
    cut = train.file.read_bytes(); cut = cut[:int(share*len(cut))]
    train.file.write_bytes(cut)
    with pytest.raises(UserError, match="fold1-checkpoint.npz is damaged .*; delete it to train this fold from its beginning"): train()
    assert train.file.read_bytes() == cut


def test_a_full_disk_is_named_and_the_checkpoint_stays(train):
    "a limit on the size of files stands for the disk: the write of the second checkpoint fails in its middle"
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    def full(epoch, epochs, log):
        if epoch == 1: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    whole = train(checkpoint=None)
    try:
        with pytest.raises(UserError, match=r"cannot write the checkpoint .*fold1-checkpoint.npz \(File too large\): it needs .* the one before is intact"): train(full)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [f.name for f in train.file.parent.iterdir()] == [train.file.name], "half a file was left"
    with np.load(train.file) as z: assert len(z["h/loss"]) == 1
    assert same(train(), whole)


def test_a_class_without_images_is_refused_before_training(train):
    with pytest.raises(UserError, match="1 of 2 classes have no image among the 40 training images .first: number 1"): train(lambda *_: pytest.fail("trained"), index=np.arange(0, 80, 2))


WRITE = """
import sys, time, numpy as np
from pathlib import Path
from catscans.core.files import atomic
write, path = np.savez, Path(sys.argv[1])
def slow(f, **arrays): write(f, **arrays); f.flush(); print("half", flush=True); time.sleep(600)
with atomic(path) as tmp, open(tmp, "wb") as f: slow(f, a=np.zeros(1000))
"""


def test_what_a_killed_writer_left_is_removed_what_a_living_one_writes_is_not(train):
    train.file.parent.mkdir()
    start = lambda: subprocess.Popen([sys.executable, "-c", WRITE, str(train.file)], stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    halves = lambda: set(train.file.parent.glob(".*"))
    (other := train.file.with_name(".fold10-checkpoint-12345678.npz")).touch()      # of another fold
    dead, living = start(), start()
    try:
        for p in (dead, living): assert p.stdout.readline() == "half\n"
        assert len(halves()) == 3
        dead.send_signal(signal.SIGKILL); dead.wait()
        train()
        [left] = halves() - {other}
        living.send_signal(signal.SIGKILL); living.wait()
        assert left.exists() and other.exists()
        train()
        assert halves() == {other}
    finally:
        for p in (dead, living): p.kill(); p.wait(); p.stdout.close()


# ---- folds smaller than a batch: each has a shape of its own, and what was computed before it must not matter

def small(n=101):
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 40, n)).astype(str)
    return Images(x=rng.integers(0, 256, (n, 32, 32, 3)).astype("uint8"), y=rng.integers(0, 2, n), groups=groups, classes=["a", "b"], card=None, fingerprint="", name="noise",
                  paths=np.arange(n).astype(str))


@pytest.mark.slow(9)
def test_resumed_in_a_fold_smaller_than_a_batch(trainer, tmp_path):
    images, recipe = small(), Recipe(epochs=3)
    whole = finetune(None, images, recipe, arch="tiny")
    assert len({f["n_train"] for f in whole.folds}) > 1 and max(f["n_train"] for f in whole.folds) < recipe.batch
    def stop(line):
        if line.startswith("fold 3/5  epoch 2/3"): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): finetune(None, images, recipe, arch="tiny", workdir=tmp_path, show=stop)
    again = finetune(None, images, recipe, arch="tiny", workdir=tmp_path)
    assert [f["weights_sha256"] for f in again.folds] == [f["weights_sha256"] for f in whole.folds] and np.array_equal(again.p, whole.p)
    assert again.earlier["wall"] > again.earlier["step"] > 0 and not whole.earlier, "what the first two folds cost is not forgotten"


@pytest.mark.parametrize("x, y, said", [
    (np.zeros((8, 64, 64, 3), "uint8"), np.arange(8) % 2, "takes images of (32, 32, 3)"), (np.zeros((8, 32, 32), "uint8"), np.arange(8) % 2, "received (32, 32)"),
    (np.zeros((8, 32, 32, 3), "uint8"), np.arange(8) % 3, "allowed is one whole number from 0 to 1"), (np.zeros((8, 32, 32, 3), "uint8"), np.arange(8)/8, "received float64"),
    (np.zeros((8, 32, 32, 3), "uint8"), [-1, 0, 1, 1, 0, 1, 0, 1], "from -1 to 1")])
def test_images_and_labels_that_do_not_fit_are_refused_before_training(trainer, x, y, said):
    with pytest.raises(UserError, match=re.escape(said)): fit(trainer, x, y, np.arange(8), 1)


def test_a_batch_is_no_larger_than_its_fold_when_memory_is_counted(trainer):
    from dataclasses import replace
    images, was = small(), trainer.recipe
    try:
        trainer.use(replace(was, batch=4_000_000)); lines = []
        guard(trainer, images.x, lines.append, n=80)
        assert "GiB for training" in lines[0]
    finally: trainer.use(was)
