"A study goes on only with the images that it began with."
import os

import numpy as np
import pytest

from catscans.core.basics import UserError
from catscans.core.grid import Run, get_profile
from catscans.records import examples
from catscans.records import store
from catscans.datasets.images import Images
from catscans.training.recipes import recipe_for
from catscans.transfer.run import Job, _source_weights
from catscans.transfer.world import HERE, World
from catscans.study.checks import check_data
from catscans.study.plan import plan


def images(fingerprint, size=32): return Images(np.zeros((4, size, size, 3), "uint8"), np.arange(4) % 2, None, ["a", "b"], None, fingerprint, "toy-dtd", np.arange(4).astype(str))
def job_of(run, world=HERE): return Job(run, get_profile(run.profile), recipe_for("toy", run.kind, run.target, run.protocol), 32, world=world)


def test_weights_of_other_images_are_refused():
    job = job_of(Run("toy-dtd", "toy-chest"))
    with examples.example_project():
        with pytest.raises(UserError, match="toy-dtd was pretrained on other images"): _source_weights(job, images("other"))
        same = store.read(Run("toy-dtd").record)["data"]["source"]["fingerprint"]
        with pytest.raises(UserError) as e: _source_weights(job, images(same))      # the images are right; there are no weights
        assert "other images" not in str(e.value)


def test_a_source_larger_than_the_target_is_compared_at_its_own_size():
    "in `paper`, DTD is pretrained at 300 pixels and fine-tuned at the target's 112"
    run, asked = Run("toy-dtd", "toy-chest"), []
    with examples.example_project():
        same = store.read(Run("toy-dtd").record)["data"]["source"]["fingerprint"]
        world = World(images_of=lambda name, profile, size, protocol: asked.append((name, size)) or images(same))
        with pytest.raises(UserError) as e: _source_weights(job_of(run, world), images("at another size", 16))
        assert "other images" not in str(e.value) and asked == [("toy-dtd", 32)]


@pytest.mark.skipif(not os.environ.get("CATSCANS_DATA"), reason="CATSCANS_DATA is not set: needs the images of lite")
def test_a_study_refuses_to_go_on_with_other_images(tmp_path):
    left = "finetune-random--kermany-grouped-s1"
    with examples.example_project("lite", skip=(left,)):
        with pytest.raises(UserError, match="kermany is not what the finished runs of lite have seen"):
            check_data([s for s in plan("lite") if s.slug == left])
