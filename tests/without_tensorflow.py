"""An install without TensorFlow, where JAX computes: what it needs, and what it must be able to do.

    python tests/without_tensorflow.py install     what settings.ini asks for, JAX in TensorFlow's place, and the package itself
    python tests/without_tensorflow.py check       every file imports, `rank` answers, and a small network trains (KERAS_BACKEND=jax)
    python tests/without_tensorflow.py check light the same without the training: JAX is not needed either
"""
import importlib, os, pkgutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Blocked:
    "an import of TensorFlow fails as where it is not installed"
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow": raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def needed():
    "requirements of the base and of the extra `jax`, but for TensorFlow"
    cfg = ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT/"settings.ini")
    lines = [l.strip() for k in ("requirements", "jax_requirements") for l in cfg["DEFAULT"][k].splitlines()]
    return [l for l in lines if l and not l.startswith("tensorflow")]


def install():
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, *needed()], check=True)
    subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)


def everything():
    "import every file of the package; those that need an extra that is not there say which"
    import catscans
    names = [m.name for m in pkgutil.walk_packages(catscans.__path__, "catscans.") if not m.name.endswith("__main__")]
    for name in names: importlib.import_module(name)
    return len(names)


def ranked():
    "the command `rank` on generated images"
    import tempfile
    from PIL import Image
    from catscans.datasets import load
    from catscans.study import main
    with tempfile.TemporaryDirectory() as d:
        images = load("toy-dtd", size=32)
        for i, (x, y) in enumerate(zip(images.x, images.y)):
            (at := Path(d)/"images"/str(images.classes[y])).mkdir(parents=True, exist_ok=True)
            Image.fromarray(x).save(at/f"{i}.png")
        return main(["rank", str(Path(d)/"images")])


def trained():
    "two epochs of a small network: its loss is a number"
    import numpy as np
    from catscans.training.recipes import Recipe
    from catscans.training.trainer import Trainer
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype="uint8")
    trainer = Trainer(2, 32, Recipe(batch=16, epochs=1, precision="float32"), arch="resnet50-conv2").reset(None, 0)
    trainer.epoch(x, np.arange(32) % 2, np.arange(32), 0, 1)
    return float(np.isfinite(trainer.predict(x, np.arange(len(x)))).mean())


def check(light=False):
    sys.meta_path.insert(0, Blocked())
    print(f"{everything()} files imported without TensorFlow")
    assert ranked() == 0
    if not light: assert os.environ.get("KERAS_BACKEND") == "jax" and trained() == 1.
    assert "tensorflow" not in sys.modules
    print("without TensorFlow: all of it works" if not light else "without TensorFlow: imports and rank work")


if __name__ == "__main__":
    what = sys.argv[1:]
    if what == ["install"]: install()
    elif what in (["check"], ["check", "light"]): check("light" in what)
    else: sys.exit(__doc__)
