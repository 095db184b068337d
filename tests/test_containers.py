"What other machines are told to install is what the lock says: containers, conda's environment, the workflows of the matrix."
import os, re, shlex, subprocess, sys
from configparser import ConfigParser

import pytest, yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from fakes import ROOT

INSTRUCTIONS = {"FROM", "ENV", "COPY", "RUN", "WORKDIR", "ENTRYPOINT", "CMD"}
SECTIONS = {"files", "post", "environment", "runscript", "test"}


def settings():
    c = ConfigParser(delimiters=["="], interpolation=None)
    c.read(ROOT/"settings.ini")
    return c["DEFAULT"]


def instructions(text):
    "(word, rest) of each instruction of a Dockerfile, its continued lines joined"
    lines = [l for l in text.splitlines() if l.strip() and not l.lstrip().startswith("#")]
    return [tuple(l.split(None, 1)) for l in "\n".join(lines).replace("\\\n", " ").splitlines()]


def dockerfile_faults(text, exists):
    "what a builder, or a reader who wants the same image again, would object to"
    found, faults = instructions(text), []
    if not found or found[0][0] != "FROM": return ["does not begin with FROM"]
    faults += [f"unknown instruction {w}" for w, *_ in found if w not in INSTRUCTIONS]
    faults += [f"base image without a whole version: {r}" for w, r in found if w == "FROM" and not re.search(r":\d+\.\d+\.\d+", r)]
    for w, rest in found:
        if w == "COPY": faults += [f"COPY of {f}, which is not there" for f in rest.split()[:-1] if not exists(f)]
        if w in ("ENTRYPOINT", "CMD") and not isinstance(yaml.safe_load(rest), list): faults.append(f"{w} is no list")
        if w == "RUN" and "pip install" in rest and not {"--require-hashes", "--no-deps"} & set(shlex.split(rest)): faults.append(f"not from the lock: {rest}")
    return faults


def sections(text):
    "section -> lines of an Apptainer definition, its header under the empty name"
    at, out = "", {"": []}
    for line in text.splitlines():
        if line.startswith("%"): out[at := line[1:].strip()] = []
        elif line.strip() and not line.startswith("#"): out[at].append(line.strip())
    return out


def apptainer_faults(text, exists):
    s = sections(text)
    faults = [f"unknown section %{k}" for k in s if k and k not in SECTIONS]
    head = dict(l.split(": ", 1) for l in s[""])
    if head.get("Bootstrap") != "docker" or not re.search(r":\d+\.\d+\.\d+", head.get("From", "")): faults.append("base image without a whole version")
    for line in s.get("files", []):
        if not exists(line.split()[0]): faults.append(f"%files: {line.split()[0]} is not there")
    pips = [l for l in s.get("post", []) if "pip install" in l]
    faults += [f"not from the lock: {l}" for l in pips if not {"--require-hashes", "--no-deps"} & set(shlex.split(l))]
    return faults if pips else [*faults, "installs nothing"]


there = lambda f: (ROOT/f).exists()
DOCKERFILE, DEFINITION = (ROOT/"containers"/f for f in ("Dockerfile", "catscans.def"))


def test_the_containers_are_sound_and_built_on_the_same():
    assert dockerfile_faults(DOCKERFILE.read_text(), there) == [] and apptainer_faults(DEFINITION.read_text(), there) == []
    base = dict(instructions(DOCKERFILE.read_text()))["FROM"]
    assert f"From: {base}" in sections(DEFINITION.read_text())[""]
    copied = {f for w, r in instructions(DOCKERFILE.read_text()) if w == "COPY" for f in r.split()[:-1]}
    assert copied == {l.split()[0] for l in sections(DEFINITION.read_text())["files"]}


@pytest.mark.parametrize("old, new, fault", [
    ("python:3.11.7-slim-bookworm", "python:latest", "whole version"), ("--require-hashes ", "", "not from the lock"),
    ("COPY catscans ", "COPY katscans ", "katscans, which is not there"), ("WORKDIR", "WORKDER", "unknown instruction WORKDER"), ("CMD [", "CMD {", "CMD is no list")])
def test_a_planted_fault_of_the_dockerfile_is_found(old, new, fault):
    assert old in (text := DOCKERFILE.read_text())
    changed = text.replace(old, new) if not new.startswith("CMD") else text.replace('CMD ["--help"]', "CMD catscans")
    assert any(fault in f for f in dockerfile_faults(changed, there)), dockerfile_faults(changed, there)


@pytest.mark.parametrize("old, new, fault", [
    ("python:3.11.7-slim-bookworm", "python:3", "whole version"), ("--require-hashes ", "", "not from the lock"),
    ("    nbs /opt", "    notebooks /opt", "notebooks is not there"), ("%runscript", "%startscripts", "unknown section %startscripts")])
def test_a_planted_fault_of_the_definition_is_found(old, new, fault):
    assert old in (text := DEFINITION.read_text())
    assert any(fault in f for f in apptainer_faults(text.replace(old, new), there))


def locked():
    "name -> [(version, marker)] of requirements.lock"
    out = {}
    for line in (ROOT/"requirements.lock").read_text().splitlines():
        if m := re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==(\S+)", line): out.setdefault(canonicalize_name(m[1]), []).append(Version(m[2]))
    return out


def test_the_lock_fits_what_settings_ini_asks_for():
    have, cfg = locked(), settings()
    for key in ("requirements", "paper_requirements", "dev_requirements", "imagenet_requirements", "safetensors_requirements"):
        for r in (Requirement(l) for l in cfg[key].splitlines() if l.strip()):
            versions = have.get(canonicalize_name(r.name), [])
            assert versions and all(v in r.specifier for v in versions), f"{key}: {r} is not what requirements.lock has ({versions}); do make lock"


def test_conda_agrees_with_the_lock_and_the_containers():
    env = yaml.safe_load((ROOT/"environment.yml").read_text())
    python = next(d for d in env["dependencies"] if isinstance(d, str) and d.startswith("python="))
    pip = next(d["pip"] for d in env["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock"], "conda would install something else than the lock says"
    version = Version(python.removeprefix("python="))
    assert version in SpecifierSet(f">={settings()['min_python']}")
    assert dict(instructions(DOCKERFILE.read_text()))["FROM"].startswith(f"python:{version}.")


WORKFLOWS = sorted((ROOT/".github"/"workflows").glob("*.yml"))


def workflow_faults(text):
    "unpinned actions, jobs without a limit, steps that do nothing"
    flow, faults = yaml.safe_load(text), []
    if flow.get("permissions") != {"contents": "read"}: faults.append("may do more than read")
    for name, job in flow["jobs"].items():
        if not job.get("timeout-minutes"): faults.append(f"{name} has no time limit")
        for step in job["steps"]:
            if "uses" in step and not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", step["uses"]): faults.append(f"{name}: {step['uses']} is not pinned to a commit")
            if not {"uses", "run"} & set(step): faults.append(f"{name}: a step does nothing")
    return faults


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda f: f.name)
def test_workflows_are_pinned(path):
    text = path.read_text()
    assert workflow_faults(text) == []
    assert any("is not pinned" in f for f in workflow_faults(re.sub(r"@[0-9a-f]{40}", "@v4", text, count=1)))


def test_the_matrix_is_every_machine_that_the_package_claims():
    jobs = {k: j for f in WORKFLOWS for k, j in yaml.safe_load(f.read_text())["jobs"].items()}
    quick = jobs["quick"]["strategy"]["matrix"]
    pythons = {*quick["python"], *jobs["without-tensorflow"]["strategy"]["matrix"]["python"]}
    assert pythons >= {"3.11", "3.12", "3.13", "3.14"} and settings()["min_python"] in pythons
    kinds = {(o.split("-")[0], "arm" in o or (o.startswith("macos") and "intel" not in o)) for o in quick["os"]}
    assert {("ubuntu", False), ("ubuntu", True), ("macos", True), ("windows", False)} <= kinds


@pytest.mark.slow(30)
def test_without_tensorflow_the_package_imports_and_ranks(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND" and not k.startswith("CATSCANS_")} | dict(CATSCANS_WORK=str(tmp_path))
    p = subprocess.run([sys.executable, ROOT/"tests"/"without_tensorflow.py", "check", "light"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert p.returncode == 0 and "imports and rank work" in p.stdout, p.stdout + p.stderr[-3000:]
