"""A stranger's path: an empty folder, the installed package and images of one's own, in twelve lines, the last of them in plain Keras."""
import os, re, subprocess, sys

import pytest

from test_surface import installed   # noqa: F401 (a fixture: the package as pip installs it, without the clone)

LINES = """catscans data add mine --name brain --origin medical
catscans compare brain --minutes 0.2
python
from catscans.datasets import load
from catscans.training import Recipe
from catscans.transfer import finetune, fit_final
brain = load("brain", size=32)
how = dict(recipe=Recipe(lr=1e-3, epochs=1, batch=16), network="resnet50-conv2")
print(finetune(None, brain, folds=2, **how))
fit_final(None, brain, **how).keep("brain.keras")
import keras
print(keras.models.load_model("brain.keras").predict(brain.x[:3].astype("float32")).shape)"""


def images(folder):
    "two classes of 30 soft pictures"
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(0)
    for i in range(60):
        x = rng.normal(120, 40, (6, 6, 3))
        x[:, :3] += 40*(i % 2)
        (d := folder/"mine"/("well", "ill")[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(x, 0, 255).astype(np.uint8)).resize((40, 40), Image.Resampling.BICUBIC).save(d/f"{i}.png")


@pytest.mark.slow(90)
def test_a_stranger_gets_from_images_to_a_network_of_plain_keras(installed, tmp_path):     # noqa: F811
    images(tmp_path)
    assert len(LINES.splitlines()) <= 12
    env = {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")}
    env |= dict(PYTHONPATH=str(installed), CATSCANS_DATA=str(tmp_path/"data"), CATSCANS_WORK=str(tmp_path/"work"), TF_CPP_MIN_LOG_LEVEL="2")
    (tmp_path/"data").mkdir()
    def do(*line):
        p = subprocess.run([sys.executable, *line], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert p.returncode == 0, p.stdout + p.stderr[-3000:]
        return p.stdout
    shell, program = LINES.split("\npython\n")
    said = [do("-c", "import sys; from catscans.study import main; sys.exit(main())", *line.split()[1:]) for line in shell.splitlines()]
    assert said[0].startswith("brain: 60 images, 2 classes") and "Start from: " in said[1]
    printed = do("-c", "import catscans; assert 'site' in catscans.__file__\n" + program)
    assert re.match(r"AUC [01]\.\d{3} \(95 %: ", printed) and "2 folds" in printed and printed.rstrip().endswith("(3, 2)")
    assert (tmp_path/"brain.json").exists()
