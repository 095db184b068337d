"A study goes on only with the images that it began with."
import os

import numpy as np
import pytest

from catscans.records import store
from catscans.records import examples
from catscans.core.basics import UserError
from catscans.core.grid import Run
from catscans.datasets.images import Images


def images(fingerprint, size=32): return Images(np.zeros((4, size, size, 3), "uint8"), np.arange(4) % 2, None, ["a", "b"], None, fingerprint, "toy-dtd", np.arange(4).astype(str))


def test_weights_of_other_images_are_refused():
    from catscans.transfer.run import _source_weights
    run = Run("toy-dtd", "toy-chest")
    with examples.example_project():
        with pytest.raises(UserError, match="toy-dtd was pretrained on other images"): _source_weights(run, images("other"))
        same = store.read(Run("toy-dtd").record)["data"]["source"]["fingerprint"]
        with pytest.raises(UserError) as e: _source_weights(run, images(same))      # the images are right; there are no weights
        assert "other images" not in str(e.value)


def test_a_source_larger_than_the_target_is_compared_at_its_own_size(monkeypatch):
    "in `paper`, DTD is pretrained at 300 pixels and fine-tuned at the target's 112"
    from catscans.transfer import run as run_file
    run, asked = Run("toy-dtd", "toy-chest"), []
    with examples.example_project():
        same = store.read(Run("toy-dtd").record)["data"]["source"]["fingerprint"]
        monkeypatch.setattr(transfer, "images_of", lambda name, profile, size, protocol: asked.append((name, size)) or images(same))
        with pytest.raises(UserError) as e: run_file._source_weights(run, images("at another size", 16))
        assert "other images" not in str(e.value) and asked == [("toy-dtd", 32)]


@pytest.mark.skipif(not os.environ.get("CATSCANS_DATA"), reason="CATSCANS_DATA is not set: needs the images of lite")
def test_a_study_refuses_to_go_on_with_other_images(tmp_path):
    from catscans.study.plan import plan
    from catscans.study.checks import check_data
    left = "finetune-random--kermany-grouped-s1"
    with examples.example_project("lite", skip=(left,)):
        with pytest.raises(UserError, match="kermany is not what the finished runs of lite have seen"):
            check_data([s for s in plan("lite") if s.slug == left])
