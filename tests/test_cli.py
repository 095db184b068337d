"What the command line promises: exit codes, one line per mistake, and no heavy import before it is needed."
import json, os, shutil, subprocess, sys
from pathlib import Path

import pytest

from catscans.core.basics import UserError
from catscans.datasets.catalogue import CATALOGUE, short
from catscans.study.checks import check_data
from catscans.study.cli import main
from catscans.study.plan import plan
from catscans.study.done import problem
from fakes import ROOT, catscans, fake_project


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return fake_project(tmp_path_factory.mktemp("project"))


def files(env): return {f for f in Path(env["CATSCANS_PROJECT"]).rglob("*") if f.is_file() and f.name != "run.lock"}


@pytest.mark.parametrize("line,says", [
    ("run --profile tyo", "allowed are toy, lite, paper, power, scarce, size50, size200, size1000, truncated-cbr-tiny, truncated-cbr-largew, truncated-densenet121, truncated-resnet50, published"),
    ("run --profile toy --source cifar", "allowed are toy-imagenet"),
    ("run --profile toy --target dtd", "allowed are toy-isic2018, toy-chest, toy-pcam-middle"),
    ("run --profile toy --source pcam-small --target pcam-middle", "no pair"),
    ("run --protocol fair", "allowed are grouped, described, published"),
    ("run --jobs none", "whole number from 1"),
    ("run --engine cloud", "allowed are local, slurm"),
    ("run --profile published --source dtd", "leave out --source"),
    ("run --profile lite", "CATSCANS_DATA, which is not set"),
    ("run --profile lite --source random --target kermany", "medical_chest_kermany_224.zip"),
    ("status --profile huge", "allowed are"),
    ("figures --profile toy", "is not complete, 37 steps are left"),
    ("report --profile toy", "do catscans run --profile toy"),
    ("audit --record /nowhere", "/nowhere"),
    ("data where cifar", "allowed are"),
    ("data check kermany", "CATSCANS_DATA, which is not set"),
    ("data get dtd", "CATSCANS_DATA is not set"),
    ("data add photos", "CATSCANS_DATA is not set"),
    ("data fetch dtd", "invalid choice"),
    ("ranks photos", "invalid choice"),
    ("run --sources dtd", "unrecognized arguments: --sources dtd; see catscans run --help"),
    ("rank photos --foo", "see catscans rank --help"),
    ("data get kermany", "not distributed with catscans"),
    ("data remove dtd", "it was not added"),
    ("rank photos", "neither a file or folder nor a dataset"),
    ("", "a command is needed"),
])
def test_a_wrong_request_is_one_line_and_leaves_nothing(env, line, says):
    before = files(env)
    p = catscans(env, *line.split())
    assert p.returncode == 2, (p.stdout, p.stderr)
    assert len(p.stderr.splitlines()) == 1 and p.stderr.startswith("catscans: error: ") and says in p.stderr, p.stderr
    assert files(env) == before


@pytest.mark.parametrize("line", ["status", "status --profile lite", "status --profile published", "run --profile lite", "report --profile toy", "figures --profile toy"])
def test_a_question_and_a_refusal_make_no_folder(tmp_path, monkeypatch, line):
    fake_project(tmp_path)
    shutil.rmtree(tmp_path/"work")
    before = set(tmp_path.rglob("*"))
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    for k in ("CATSCANS_DATA", "CATSCANS_WORK"): monkeypatch.delenv(k, raising=False)
    assert main(line.split()) == (0 if line.startswith("status") else 2)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("line", ["run --profile toy", "rank photos"])
def test_an_unknown_backend_is_refused_before_work(tmp_path, monkeypatch, capsys, line):
    fake_project(tmp_path)
    before = set(tmp_path.rglob("*"))
    for k, v in dict(KERAS_BACKEND="numbers", CATSCANS_PROJECT=str(tmp_path)).items(): monkeypatch.setenv(k, v)
    assert (main(line.split()), capsys.readouterr().err) == (2, "catscans: error: KERAS_BACKEND: received 'numbers', allowed are tensorflow, jax, torch\n")
    assert set(tmp_path.rglob("*")) == before


def test_data_not_where_it_should_be(env, tmp_path):
    p = catscans(env, "run", "--profile", "lite", CATSCANS_DATA=str(tmp_path))
    assert p.returncode == 2 and str(tmp_path) in p.stderr and len(p.stderr.splitlines()) == 1
    p = catscans(env, "run", "--profile", "lite", CATSCANS_DATA=str(tmp_path/"absent"))
    assert p.returncode == 2 and "not a folder" in p.stderr


def test_damaged_image_is_named_before_work_starts(env, tmp_path):
    import io, zipfile
    import numpy as np
    from PIL import Image
    rng, rows = np.random.default_rng(0), ["path,class,label,patient"]
    with zipfile.ZipFile(tmp_path/"medical_chest_kermany_224.zip", "w") as z:
        for i in range(20):
            b = io.BytesIO(); Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(b, "jpeg")
            z.writestr(f"{i}.jpg", b"not an image" if i == 7 else b.getvalue()); rows.append(f"{i}.jpg,{'AB'[i % 2]},{i % 2},person{i}")
        z.writestr("labels.csv", "\n".join(rows))
    p = catscans(env, "run", "--profile", "lite", "--source", "random", "--target", "kermany", CATSCANS_DATA=str(tmp_path))
    assert p.returncode == 2 and "7.jpg" in p.stderr.splitlines()[-1], p.stderr
    assert not list(Path(env["CATSCANS_PROJECT"]).glob("results/lite/**/*.json"))


@pytest.mark.slow(5)
def test_outside_a_project(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")} | {"PYTHONPATH": str(ROOT), "CATSCANS_PROJECT": str(tmp_path)}
    p = catscans(env, "run", "--profile", "toy")
    assert p.returncode == 2 and "inside a clone of its project" in p.stderr and len(p.stderr.splitlines()) == 1
    assert catscans(env, "audit").returncode == 0
    assert catscans(env, "data", "list").returncode == 0


def test_status_and_figures_outside_a_project(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CATSCANS_PROJECT", raising=False); monkeypatch.chdir(tmp_path)
    for line in ("status", "figures", "report"):
        assert main([line]) == 2 and "inside a clone of its project" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_clone_has_its_report(tmp_path, monkeypatch, capsys):
    fake_project(tmp_path); (tmp_path/"work"/"stores").unlink(); (tmp_path/"work").rmdir()
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.delenv("CATSCANS_WORK", raising=False)
    page = tmp_path/"results"/"published"/"report.md"
    for f in (page, tmp_path/"figures"/"published"/"fig3_auc.csv"): f.parent.mkdir(parents=True); f.write_text("as committed")
    assert main(["status", "--profile", "published"]) == 0
    out = capsys.readouterr().out
    assert "report.md are there" in out and "not run yet" not in out and "2 steps left" in out
    assert main(["report", "--profile", "published"]) == 0 and page.read_text() == "as committed"
    assert "nothing is written" in capsys.readouterr().err
    assert all(problem(s) for s in plan("published"))          # for `run` they are not done
    assert main(["status"]) == 0 and "... and 26 more (--all names them)" in capsys.readouterr().out
    assert main(["status", "--all"]) == 0 and capsys.readouterr().out.count("left: ") == 38


def test_help_tells_the_columns(env):
    for line in ("rank", "data add"): assert "lesion_id" in catscans(env, *line.split(), "--help").stdout


def test_help_names_the_commands(env):
    p = catscans(env, "--help")
    assert p.returncode == 0
    for command in ("run", "status", "figures", "report", "audit", "published", "data"): assert f"\n    {command}" in p.stdout
    assert catscans(env, "--version").stdout.strip()


def test_console_script():
    from importlib.metadata import entry_points
    (script,) = [e for e in entry_points(group="console_scripts") if e.name == "catscans"]
    assert script.value == "catscans.study:main"


def test_nothing_heavy_is_imported():
    code = "import sys, catscans.study.cli, catscans.study.plan; print([m for m in ('tensorflow', 'keras', 'jax', 'torch', 'pandas', 'matplotlib', 'papermill', 'snakemake') if m in sys.modules])"
    p = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert p.stdout.strip() == "[]", p.stdout + p.stderr


@pytest.mark.slow(10)
def test_audit(env):
    code = "import sys; from catscans.study import main; c = main(sys.argv[1:]); assert not {'tensorflow', 'keras'} & set(sys.modules); sys.exit(c)"
    p = subprocess.run([sys.executable, "-c", code, "audit", "--json"], env=env, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    assert [r["id"] for r in json.loads(p.stdout)] == list(range(1, 33))
    assert "reproduced" in catscans(env, "audit").stdout


@pytest.mark.slow(10)
def test_published_export_and_audit_of_a_copy(env, tmp_path):
    copy = tmp_path/"copy"
    assert catscans(env, "published", "export", str(copy)).returncode == 0
    assert (copy/"fold_auc.csv").exists()
    assert catscans(env, "audit", "--record", str(copy)).stdout == catscans(env, "audit").stdout
    text = (copy/"fold_auc.csv").read_text().splitlines()
    (copy/"fold_auc.csv").write_text("\n".join(text[:-1]) + "\n")
    p = catscans(env, "audit", "--record", str(copy))
    assert p.returncode == 2 and "fold_auc.csv" in p.stderr and len(p.stderr.splitlines()) == 1


def test_data(env):
    out = catscans(env, "data", "list").stdout.splitlines()
    assert out[0].split() == ["name", "images", "classes", "state", "licence"] and out[2] == "The paper's nine" and out[3].startswith("  imagenet ")      # grouped, a line per dataset
    cards = out[:next((i for i, l in enumerate(out) if l.startswith("Copies in ")), None)]       # decoded copies of others stand below
    assert [l.split()[0] for l in cards if l.startswith("  ")] == short(CATALOGUE)
    assert catscans(env, "data", "where", "toy-dtd").stdout.splitlines()[0] == "toy-dtd is generated"
    assert "fingerprint" in catscans(env, "data", "check", "toy-kimia960").stdout


@pytest.mark.slow(5)
def test_output_may_be_cut_off(env):
    from fakes import command
    p = subprocess.run(" ".join(f"'{c}'" for c in command("audit")) + " | head -1", shell=True, env=env, capture_output=True, text=True)
    assert p.stderr == "" and p.stdout.count("\n") == 1


def test_data_are_checked_when_only_the_similarities_are_left(tmp_path, monkeypatch):
    "the size is then the profile's, no run has one to give"
    monkeypatch.setenv("CATSCANS_DATA", str(tmp_path))
    left = [s for s in plan("lite") if s.notebook == "similarity"]
    assert len(left) == 1
    with pytest.raises(UserError, match="tinyimagenet"): check_data(left, decode=False)
