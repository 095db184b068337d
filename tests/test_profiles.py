"""Profiles are files: the shipped ones say what they always said, and what is wrong in one is a line with file and line."""
import hashlib

import pytest

from catscans.core.basics import UserError
from catscans.core.grid import PROFILES
from catscans.study.cli import main
from catscans.study.profile_commands import check_profile

# of the values as they stood in Python before they became files: every pair, its order, every number
WERE = dict(toy="f20b0ba0b80151d5", lite="aa0ff1700d434912", paper="9adf3296cf9ef20e", power="de798f710c57193c", scarce="351163e6e3d4c942")

RIGHT = """# line 1
sources = ["imagenet", "toy-dtd",
           "toy-chest"]
targets = ["toy-pcam-middle", "toy-chest"]
ready = ["imagenet"]
size = 32
network = "resnet50-conv2"
recipe = "toy"
probe = "source:toy-dtd"
seeds = [1, 2]
folds = 3
split = "folds"
without = [["toy-dtd", "toy-chest"]]
strategies = ["features"]
[max_train]
toy-chest = 40
[[pairs]]
sources = ["random", "toy-dtd"]
[[pairs]]
targets = ["toy-chest"]
[[parts]]
name = "half"
sources = ["random"]
targets = ["toy-chest"]
"""
# what is written instead of what -> the line that has to be named, and a word of the reason
WRONG = [
    ('size = 32', 'size = 32px', 6, "no TOML"),
    ('"toy-chest"]\ntargets', '"toy-chest"\ntargets', 4, "no TOML"),
    ('folds = 3', 'folds = 3\nfolds = 4', 12, "no TOML"),
    ('folds = 3', 'fold = 3', 11, "there is no fold"),
    ('targets = ["toy-pcam-middle", "toy-chest"]\n', '', 1, "targets is missing"),
    ('recipe = "toy"\n', '', 1, "recipe is missing"),
    ('probe = "source:toy-dtd"\n', '', 1, "probe is missing"),
    ('size = 32\n', '', 1, "size is missing"),
    ('size = 32', 'size = "32"', 6, "size: received '32'"),
    ('size = 32', 'size = 0', 6, "size: received 0"),
    ('seeds = [1, 2]', 'seeds = 2', 10, "seeds: received 2"),
    ('seeds = [1, 2]', 'seeds = [1, 0]', 10, "whole numbers from 1"),
    ('folds = 3', 'folds = 1', 11, "folds: received 1"),
    ('folds = 3', 'folds = true', 11, "folds: received True"),
    ('split = "folds"', 'split = "fold"', 12, "split: received 'fold'"),
    ('ready = ["imagenet"]', 'ready = "imagenet"', 5, "ready: received 'imagenet'"),
    ('ready = ["imagenet"]', 'ready = ["toy-dtd"]', 5, "no weights are published"),
    ('ready = ["imagenet"]\n', '', 2, "its weights are published"),
    ('"toy-chest"]\ntargets', '"toy-chess"]\ntargets', 3, "received 'toy-chess'"),
    ('"toy-chest"]\ntargets', '"toy-dtd"]\ntargets', 2, "stands there twice"),
    ('"toy-chest"]\ntargets', '"random"]\ntargets', 3, "random is no source"),
    ('targets = ["toy-pcam-middle", "toy-chest"]', 'targets = ["toy-pcam-middle", "toy-chest", "brain"]', 4, "unknown dataset: received 'brain'"),
    ('"resnet50-conv2"', '"resnet51"', 7, "resnet51"),
    ('recipe = "toy"', 'recipe = "toys"', 8, "unknown recipe"),
    ('recipe = "toy"', 'recipe = "paper"', 8, "has no pretrain settings"),
    ('source:toy-dtd', 'source:toy-dtt', 9, "none of the sources"),
    ('"source:toy-dtd"', '"squeeze"', 9, "received 'squeeze'"),
    ('[["toy-dtd", "toy-chest"]]', '["toy-dtd", "toy-chest"]', 13, "without: received"),
    ('[["toy-dtd", "toy-chest"]]', '[["toy-dtd", "toy-stl10"]]', 13, "no pair of a source and a target"),
    ('["features"]', '["feature"]', 14, "unknown strategy"),
    ('toy-chest = 40', 'toy-chest = "40"', 16, "toy-chest: received '40'"),
    ('toy-chest = 40', 'toy-cest = 40', 16, "none of the targets"),
    ('["random", "toy-dtd"]', '["random", "toy-stl10"]', 18, "received 'toy-stl10'"),
    ('targets = ["toy-chest"]\n[[parts', 'target = ["toy-chest"]\n[[parts', 20, "there is no target"),
    ('targets = ["toy-chest"]\n[[parts', 'sources = ["toy-chest"]\ntargets = ["toy-chest"]\n[[parts', 19, "there is no pair"),
    ('name = "half"\n', '', 21, "name is missing"),
]


def test_the_shipped_profiles_are_what_they_were():
    assert {n: hashlib.sha256(repr(PROFILES[n]).encode()).hexdigest()[:16] for n in WERE} == WERE


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    (tmp_path/"profiles").mkdir()
    return tmp_path


def test_a_right_profile_is_right(project):
    path = project/"profiles"/"mine.toml"
    path.write_text(RIGHT)
    p = check_profile(path)
    assert p.pairs == (("random", "toy-pcam-middle"), ("toy-dtd", "toy-pcam-middle"), ("random", "toy-chest"), ("imagenet", "toy-chest"))
    assert PROFILES["mine"] == p and "mine" not in dict(WERE)


@pytest.mark.parametrize("old, new, line, why", WRONG, ids=range(1, len(WRONG)+1))
def test_each_wrong_profile_is_one_line_with_file_and_line(project, old, new, line, why):
    assert RIGHT.count(old) == 1, old
    path = project/"profiles"/"mine.toml"
    path.write_text(RIGHT.replace(old, new))
    with pytest.raises(UserError) as e: check_profile(path)
    assert str(e.value).startswith(f"{path}:{line}: ") and why in str(e.value) and "\n" not in str(e.value), e.value


def test_the_command_writes_and_checks(project, capsys):
    assert main(["profile", "new", "mine"]) == 0 and main(["profile", "check"]) == 0
    assert "nothing is wrong; 3 sources, 1 targets" in " ".join(capsys.readouterr().out.split())
    (project/"profiles"/"odd.toml").write_text("size = none")
    assert main(["profile", "check"]) == 1 and "odd.toml:1: " in capsys.readouterr().out
    assert main(["profile", "new", "mine"]) == 2 and "is there already" in capsys.readouterr().err


def test_images_of_ones_own_stand_in_a_profile_and_have_a_colour(project, monkeypatch, capsys):
    import numpy as np
    from catscans.figures.style import ORIGIN, colour
    monkeypatch.setenv("CATSCANS_DATA", str(project/"data"))
    (project/"data").mkdir()
    rng = np.random.default_rng(0)
    np.savez(project/"scans.npz", train_images=rng.integers(0, 255, (24, 8, 8), dtype=np.uint8), train_labels=np.arange(24) % 2)
    path = project/"profiles"/"mine.toml"
    path.write_text(RIGHT.replace("toy-chest", "brain"))
    with pytest.raises(UserError, match="mine.toml:3: sources: unknown dataset: received 'brain'"): check_profile(path)
    with pytest.raises(UserError): colour("brain")
    assert main(["data", "add", str(project/"scans.npz"), "--name", "brain", "--origin", "non-medical"]) == 0
    assert ("brain", "toy-pcam-middle") not in check_profile(path).pairs and ("random", "brain") in check_profile(path).pairs
    assert colour("brain") == ORIGIN["non-medical"]


def test_a_wrong_profile_stops_nobody_who_does_not_ask_for_it(project, monkeypatch, capsys):
    "whoever looks through all profiles goes on without it, and says so"
    from catscans.figures import atlas
    from catscans.core.basics import hearing
    monkeypatch.setenv("CATSCANS_DATA", str(project/"data"))
    (project/"data").mkdir()
    (project/"profiles"/"odd.toml").write_text("size = none")
    for line in ("data list", "plan --profile lite", "status --profile toy"): assert main(line.split()) == 0, line
    with hearing() as said: assert atlas._study(("dtd", "imagenette"), "grouped").profile == "mixed"
    assert any("odd.toml:1" in s and "left out" in s for s in said)
    capsys.readouterr()
    assert main(["plan", "--profile", "odd"]) == 2 and "odd.toml:1" in capsys.readouterr().err.replace("\n  ", "")
