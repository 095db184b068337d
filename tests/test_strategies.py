"Every strategy, on small networks and toy data: what it equals at its ends, that a kill changes nothing, and that what is held out is never looked at."
import os

import numpy as np
import pytest

from catscans.core.basics import UserError
from catscans.core.strategies import Strategy, strategy_of
from catscans.datasets.images import Images
from catscans.datasets.splits import make_splits
from catscans.models.networks import network
from catscans.models.resnet import random_weights
from catscans.training.recipes import Recipe
from catscans.training.trainer import Trainer
from catscans.transfer.folds import Finetuning, finetune
from catscans.transfer import stages

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
