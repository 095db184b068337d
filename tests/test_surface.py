"""What users and other people's scripts rely on: names, signatures and commands, written out here so that no face can lose one unseen."""
import json, os, shutil, subprocess, sys
from pathlib import Path

import pytest

from fakes import ROOT

PUBLIC = {
    "datasets": ["DATASETS", "load", "from_folder", "from_csv", "from_npz"],
    "models": ["resnet50", "network", "NETWORKS"],
    "training": ["Recipe", "RECIPES", "fit"],
    "transfer": ["pretrain", "finetune", "fit_final"],
    "metrics": ["auc_ovr_weighted", "auc_ovr_macro", "average_precision", "corrected_t_test"],
    "task2vec": ["embed", "cosine"],
    "similarity": ["ESTIMATORS", "check_probe", "score", "transferability", "transrate_floor"],
    "published": ["audit"],
    "recommend": ["rank"],
    "compare": ["compare"],
    "study": ["main"],
}
# function -> the parameters that may be given by position
BY_POSITION = {
    "datasets.load": ["name"],
    "transfer.finetune": ["source_weights", "images", "recipe", "protocol", "folds"],
    "transfer.pretrain": ["images", "recipe", "protocol"],
    "models.resnet50": ["n_classes", "size"],
    "models.network": ["name", "n_classes", "size", "weights", "cut"],
}
TAKE = """
import importlib, inspect, json, sys, types
from pathlib import Path
public, by_position, root = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
def take():
    for folder, names in public.items():
        face = importlib.import_module(f"catscans.{folder}")
        assert Path(face.__file__).is_relative_to(root), face.__file__
        for name in names:
            assert not isinstance(getattr(face, name), types.ModuleType), (folder, name)
            assert name in face.__all__ and name in dir(face), (folder, name)
take()
for f in sorted((root/"catscans").glob("*/*.py")):
    if f.stem not in ("__init__", "__main__"): importlib.import_module(f"catscans.{f.parent.name}.{f.stem}")
take()
for dotted, first in by_position.items():
    folder, name = dotted.split(".")
    have = list(inspect.signature(getattr(importlib.import_module(f"catscans.{folder}"), name)).parameters)
    assert have[:len(first)] == first, (dotted, have)
print("all there")
"""


def take(root, cwd):
    "in a fresh process: every public name, then again after all files were imported"
    env = {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")} | dict(PYTHONPATH=str(root))
    p = subprocess.run([sys.executable, "-c", TAKE, json.dumps(PUBLIC), json.dumps(BY_POSITION), str(root)], cwd=cwd, env=env, capture_output=True, text=True)
    assert p.returncode == 0 and p.stdout.endswith("all there\n"), p.stdout + p.stderr[-3000:]


def test_every_public_name_works_from_the_clone(tmp_path): take(ROOT, tmp_path)


def test_a_lost_name_would_be_seen(tmp_path):
    (tmp_path/"catscans"/"datasets").mkdir(parents=True)
    (tmp_path/"catscans"/"__init__.py").touch()
    (tmp_path/"catscans"/"datasets"/"__init__.py").write_text("DATASETS, __all__ = {}, ['DATASETS']\n")
    with pytest.raises(AssertionError, match="has no attribute 'load'"): take(tmp_path, tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "where `pip install .` puts the package, without what it needs; built from a copy: setuptools writes build/ beside setup.py"
    copy, to = tmp_path_factory.mktemp("wheel")/"copy", tmp_path_factory.mktemp("site")
    wanted = ("catscans", "setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE")
    shutil.copytree(ROOT, copy, ignore=lambda d, names: [n for n in names if Path(d) == ROOT and n not in wanted])
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet", "--target", to, copy]
    p = subprocess.run(pip, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-3000:]
    shutil.rmtree(copy)
    return to


@pytest.mark.slow(15)
def test_an_installed_copy_has_its_data_and_its_command(installed, tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")} | dict(PYTHONPATH=str(installed))
    code = "from catscans.records import fold_auc; from catscans.datasets import DATASETS; print(len(fold_auc()), len(DATASETS) > 9)"
    p = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert p.stdout.split() == ["120", "True"], p.stderr[-3000:]
    p = subprocess.run([sys.executable, installed/"bin"/"catscans", "data", "list"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert p.returncode == 0 and "pcam-middle" in p.stdout, p.stderr[-3000:]


@pytest.mark.slow(15)
def test_every_public_name_works_from_an_installed_copy(installed, tmp_path): take(installed, tmp_path)


def test_the_commands_answer(tmp_path):
    for module in ("catscans.slices", "catscans.recommend.prints"):
        p = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
        assert p.returncode == 0 and p.stdout.startswith(f"usage: python -m {module}"), p.stderr[-2000:]
