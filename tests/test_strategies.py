"Every strategy, on small networks and toy data: what it equals at its ends, that a kill changes nothing, and that what is held out is never looked at."
import os
from dataclasses import replace

import numpy as np
import pytest

from catscans.core.basics import UserError
from catscans.core.grid import PROFILES, Run, runs
from catscans.core.strategies import Strategy, strategy_of
from catscans.datasets.images import Images
from catscans.datasets.splits import make_splits
from catscans.models.networks import network
from catscans.models.resnet import random_weights
from catscans.training.recipes import Recipe
from catscans.training.trainer import Trainer
from catscans.transfer.folds import Finetuning, finetune
from catscans.records import store
from catscans.transfer import ensembles, run, stages
from catscans.transfer.joint import as_whole
from catscans.transfer.run import execute
from catscans.transfer.world import World

ARCH, RECIPE = "cbr-tiny", Recipe(lr=1e-3, epochs=4, batch=16, dropout=.2)
FOLDS = dict(folds=2, arch=ARCH, seed=3, key="k")


def toy(n=48, seed=0, name="toy"):
    "stripes across or down, three images a group"
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    wave = 60*np.sin(np.arange(32)*(1.1 + .1*rng.random((n, 1))))
    x = 120 + np.where((y == 1)[:, None, None], wave[:, :, None], wave[:, None, :]) + rng.normal(0, 40, (n, 32, 32))
    return Images(x=np.repeat(x[..., None], 3, 3).clip(0, 255).astype("uint8"), y=y, groups=np.array([f"{name}{i//3}" for i in range(n)]),
                  classes=["across", "down"], card=None, fingerprint=f"{name}{seed}", name=name, paths=np.arange(n).astype(str))


@pytest.fixture(scope="module")
def start(): return random_weights(network(ARCH, 2, 32), 1)


class Killed(Exception): pass


slowly = pytest.mark.skipif(not os.environ.get("CATSCANS_SLOW"), reason="CATSCANS_SLOW is not set: the other strategies, killed and resumed")


def trained(slug, start, images, workdir=None, die=None):
    "fine-tuning by a strategy; `die`: number of the epoch, over everything, in which the process ends"
    how, seen = Finetuning(seed=3, key="k", workdir=workdir), []
    before, recipe = stages.start_for(strategy_of(slug), start, images, RECIPE, ARCH, how)
    def epoch(self, *a, **k):
        if die is not None and len(seen) == die: raise Killed
        seen.append(1)
        return whole_epoch(self, *a, **k)
    whole_epoch = Trainer.epoch
    with pytest.MonkeyPatch.context() as m:
        m.setenv("CATSCANS_CHECKPOINT_EVERY", "0")
        m.setattr(Trainer, "epoch", epoch)
        return finetune(start, images, recipe, start_of_fold=before, workdir=workdir, **FOLDS)


@pytest.mark.slow(4)
def test_all_blocks_at_once_are_full_fine_tuning(start):
    images = toy()
    whole = finetune(start, images, RECIPE, **FOLDS)
    np.testing.assert_array_equal(trained("gradual1", start, images).p, whole.p)
    assert (trained("gradual2", start, images).p != whole.p).any()


@pytest.mark.parametrize("slug, die", [pytest.param("gradual2", 1, marks=pytest.mark.slow(5)), pytest.param("gradual2", 5, marks=slowly), pytest.param("probe-first", 2, marks=slowly)])
def test_killed_and_resumed_ends_the_same(slug, die, start, tmp_path):
    "in an epoch of a stage, of a later fold, after a probe"
    images = toy()
    undisturbed = trained(slug, start, images)
    with pytest.raises(Killed): trained(slug, start, images, tmp_path, die)
    resumed = trained(slug, start, images, tmp_path)
    np.testing.assert_array_equal(resumed.p, undisturbed.p)
    assert [f["weights_sha256"] for f in resumed.folds] == [f["weights_sha256"] for f in undisturbed.folds]


@pytest.mark.parametrize("slug", ["probe-first", "gradual2"])
def test_what_is_done_before_a_fold_sees_its_training_images_alone(slug, start):
    "one group of each fold's test part is planted as white images of its own: what is trained before the fold is the same without it"
    images = toy()
    before, _ = stages.start_for(strategy_of(slug), start, images, RECIPE, ARCH, Finetuning(seed=3, key="k"))
    fold = make_splits(images.y, images.groups, "grouped", 2, 3).folds[0]
    trainer = Trainer(2, 32, RECIPE, ARCH)
    a = before(trainer, fold, 0)
    images.x[fold.test] = 255
    images.y[fold.test] = 1 - images.y[fold.test]
    b = before(trainer, fold, 0)
    assert all((a[k] == b[k]).all() for k in a)
    images.x[fold.train[:3]] = 255
    assert any((a[k] != v).any() for k, v in before(trainer, fold, 0).items()), "the test could not see a change"


WRONG = [("svm", "say features+svm"), ("features+gradual2", "leave out gradual"), ("features+truncated-block1", "leave out truncated"), ("gradual2+last1", "do not go together"),
         ("frozen1+last1", "do not go together"), ("last0", "unknown strategy: received 'last0'")]


@pytest.mark.parametrize("slug, says", WRONG, ids=[w[0] for w in WRONG])
def test_a_wrong_combination_is_one_line(slug, says):
    with pytest.raises(UserError, match=says.replace("+", r"\+")) as e: strategy_of(slug)
    assert "\n" not in str(e.value)
    assert strategy_of("") == Strategy()


SMALL = replace(PROFILES["toy"], name="toy", sources=("one", "two"), targets=("goal",), pairs=(("one", "goal"), ("two", "goal"), ("random", "goal")), arch=ARCH, folds=2, cells=())
SEEDS = dict(one=1, two=2, goal=3, imagenet=4)


def small_world(images_of=lambda name, *a: toy(90, SEEDS[name], name)):
    "two sources and a target of a few images, and a network of four blocks"
    return World(profile=lambda name: SMALL, images_of=images_of, recipe_for=lambda *a, **k: replace(RECIPE, epochs=2))


def record_of(slug, folder, world=None):
    "the record of the last run that a strategy asks for, after all those that it needs"
    with pytest.MonkeyPatch.context() as m:
        m.setenv("CATSCANS_PROJECT", str(folder)), m.setenv("CATSCANS_WORK", str(folder/"work"))
        (folder/"settings.ini").touch()
        todo = runs(SMALL, strategies=[slug])
        for r in todo:
            if not r.record.exists(): execute(r, lambda s: None, world or small_world())
        return [store.read(r.record) for r in todo if r.target and r.strategy == todo[-1].strategy][0]


EVERY = ["union-two", "mixed50-two", "ensemble", "stacked", "via-two", "equal", "features+lda", "last2", "gradual2", "probe-first", "features-block1+knn"]


@pytest.mark.slow(20)
@pytest.mark.parametrize("slug", ["ensemble", "union"])
def test_a_strategy_of_several_sources_ends_in_a_record(slug, tmp_path):
    rec = record_of(slug, tmp_path)
    assert rec["source"] == "one" and rec["strategy"] == f"{slug}-two" and len(rec["folds"]) == 2


@slowly
@pytest.mark.parametrize("slug", EVERY)
def test_every_strategy_ends_in_a_record(slug, tmp_path): assert record_of(slug, tmp_path)["strategy"].startswith(slug)


@pytest.mark.parametrize("slug", ["ensemble-two", "stacked-two", "union-two", "mixed30-two", "double+averaged-two"])
def test_no_source_of_several_may_have_seen_the_target(slug, tmp_path, monkeypatch):
    "the other source is planted with the target's own groups: refused before anything is trained"
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)), monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    (tmp_path/"settings.ini").touch()
    planted = small_world(lambda name, *a: toy(90, 3, "goal") if name == "two" else toy(90, SEEDS[name], name))
    with pytest.raises(UserError, match="two and goal come from one collection"): execute(Run("one", "goal", strategy=slug), None, planted)
    with pytest.raises((UserError, FileNotFoundError)) as e: execute(Run("one", "goal", strategy=slug), None, small_world())
    assert "come from one" not in str(e.value), "the test could not see a difference"


def test_weights_of_a_stacked_ensemble_do_not_follow_what_is_held_out():
    "labels of a fold's test part are turned round: what the members weigh stays; those of its training part are, and it changes"
    images, rng = toy(), np.random.default_rng(0)
    splits = make_splits(images.y, images.groups, "grouped", 2, 1)
    says = [rng.random((len(images), 1)).astype("float32") for _ in range(2)]
    says = [np.concatenate([1 - p, p], 1) for p in says]
    def weighed():
        of = ensembles.Splits("inner", 2, 1, ensembles.inner_splits(toy(), splits).folds, "")
        return ensembles.stacked([[p[f.test] for f in of] for p in says], of, images)(0, says)
    before, outer = weighed(), splits.folds[0]
    images.y[outer.test] = 1 - images.y[outer.test]
    np.testing.assert_array_equal(weighed(), before)
    images.y[outer.train] = 1 - images.y[outer.train]
    assert (weighed() != before).any(), "the test could not see a change"


@pytest.mark.slow(8)
def test_options_of_a_recipe_change_what_they_say_and_nothing_when_off(start):
    images, index = toy(), np.arange(48)
    def moved(**options):
        t = Trainer(2, 32, replace(RECIPE, **options), ARCH)
        t.reset(start, 3)
        t.epoch(images.x, images.y, index, 0, 3)
        return t.weights()
    plain, far = moved(), lambda w, k: float(np.abs(w[k] - start[k]).mean())
    same = moved(decay=1.)
    assert all((same[k] == v).all() for k, v in plain.items())
    slow = moved(decay=.1)
    assert far(slow, "block1_conv/kernel") < .01*far(plain, "block1_conv/kernel") and far(slow, "block4_conv/kernel") > .05*far(plain, "block4_conv/kernel")
    for option in (dict(smoothing=.2), dict(mixup=.2)): assert (moved(**option)["block4_conv/kernel"] != plain["block4_conv/kernel"]).any()


@pytest.mark.parametrize("slug, learned, whole", [("mixed0-two", ["one"], "one"), ("mixed50-two", ["one", "two"], "one"), ("mixed100-two", ["two"], "two"), ("equal", ["one"], "one")])
def test_what_a_pretraining_learns_and_what_its_record_counts(slug, learned, whole):
    world = small_world()
    job = run.Job(Run("one", None, "toy", "grouped", 1, slug), SMALL, RECIPE, 32, None, world)
    images = job.images("one")
    got = run._learned(job, images)
    assert [s.name for s in got] == learned and (len(learned) == 2 or len(got[0]) == 90)
    of, _ = run._seen_of(images, got)
    at, y, p = as_whole(got[0], of, np.arange(4), np.eye(2)[got[0].y[:4]])
    assert of.name == whole and (of.x[at] == got[0].x[:4]).all() and (p.argmax(1) == y).all()
