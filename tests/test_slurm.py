"""The grid through a real Slurm on loopback: slurmctld, slurmd and munged laid out from Debian's packages by tests/slurm/start.sh.

Kills are as many as CATSCANS_KILLS says (4 here; 20 and more by hand: CATSCANS_KILLS=20 pytest tests/test_slurm.py -k killed)."""
import importlib.util, json, os, platform, random, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

import psutil
import pytest

from catscans.core.basics import UserError
from catscans.records.store import differences, read
from catscans.study import machine
from fakes import ROOT, catscans, command, fake_project

START = ROOT/"tests"/"slurm"/"start.sh"
PLUGIN = ("snakemake-executor-plugin-slurm==2.8.0", "snakemake-executor-plugin-slurm-jobstep==0.6.1", "throttler==1.2.3")
SMALL = "run --profile toy --source dtd stl10 --target chest isic2018 --jobs 3".split()
FAST = "slurm-init-seconds-before-status-checks: 2\nseconds-between-status-checks: 2\nlatency-wait: 5\n"


def cannot(p, what):
    pytest.skip(f"SLURM IS NOT TESTED: {what}: {(p.stderr or p.stdout).strip()[-300:]}")


@pytest.fixture(scope="module")
def cluster():
    "folder of a running cluster, and what an environment needs to use it"
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))          # short: a socket lies in it
    start = lambda what: subprocess.run(["bash", START, what, folder], capture_output=True, text=True, timeout=300)
    try:
        if (p := start("get")).returncode: cannot(p, "its packages cannot be had")
        there = []
        if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder/"plugin", *PLUGIN]
            if (p := subprocess.run(pip, capture_output=True, text=True)).returncode: cannot(p, "Snakemake's plugin cannot be had")
            there = [str(folder/"plugin")]
        if (p := start("up")).returncode: cannot(p, "it does not start here")
        yield folder, dict(PATH=f"{folder/'bin'}:{os.environ['PATH']}", PYTHONPATH=":".join([str(ROOT), *there])), start
    finally:
        start("down")
        shutil.rmtree(folder, ignore_errors=True)


def project(folder, env):
    "a project whose notebooks pretend to train, with a queue that is asked often"
    folder.mkdir()
    made = fake_project(folder) | env
    profile = folder/"workflow"/"profiles"/"slurm"/"config.yaml"
    keep = [l for l in profile.read_text().splitlines() if l.split(":")[0] not in FAST]
    profile.write_text("\n".join(keep) + "\n" + FAST)
    return made


def jobs(folder):
    "the queue's (number, name) pairs"
    said = subprocess.run([folder/"bin"/"squeue", "-h", "-o", "%i %j"], capture_output=True, text=True).stdout
    return [tuple(l.split(None, 1)) for l in said.splitlines()]


def records(at): return {f.stem: f for f in (at/"results"/"toy"/"records").glob("*.json")}


def same(at, other):
    a, b = records(at), records(other)
    assert sorted(a) == sorted(b) and a
    return {k: d for k in a if (d := differences(read(a[k]), read(b[k])))}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    at = tmp_path_factory.mktemp("local")/"p"
    env = project(at, {})
    p = catscans(env, *SMALL)
    assert p.returncode == 0, p.stderr
    return at


@pytest.mark.slow(90)
def test_the_same_records_as_on_one_machine_and_jobs_that_ask(cluster, local, tmp_path):
    folder, env, _ = cluster
    env = project(tmp_path/"p", env)
    asked = []
    p = subprocess.Popen(command(*SMALL, "--engine", "slurm"), env=env, cwd=tmp_path/"p", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while p.poll() is None:
        said = subprocess.run([folder/"bin"/"squeue", "-h", "-O", "Name:80,TimeLimit:12,MinMemory:12,tres-per-job:20"], capture_output=True, text=True).stdout
        asked += [l.split(None, 1) for l in said.splitlines()]
        time.sleep(.5)
    assert p.returncode == 0, p.stdout.read()[-3000:]
    assert same(tmp_path/"p", local) == {}
    assert asked and all(name.startswith("catscans-") and "gpu:1" in rest for name, rest in asked), asked[:3]
    assert not any("4:00:00" in rest or "1500M" in rest for _, rest in asked), "what the profile says for want of figures"
    assert jobs(folder) == []


def kill_tree(p):
    for x in (*p.children(recursive=True), p):
        try: x.kill()
        except psutil.Error: pass


def killing(who, folder, start, submitter):
    "kill one of the four with SIGKILL, and start again what a cluster's own watchdog would"
    if who == "submitter": return kill_tree(psutil.Process(submitter.pid))
    if who in ("controller", "node"):
        os.kill(int((folder/f"{who}.pid").read_text()), signal.SIGKILL)
        time.sleep(random.uniform(0, 3))
        return start(who)
    steps = [p for p in psutil.process_iter(["cmdline"]) if any("catscans.study.notebooks import job" in said for said in p.info["cmdline"] or ())]
    if steps: kill_tree(random.choice(steps))


@pytest.mark.slow(240)
def test_whatever_is_killed_nothing_is_lost(cluster, local, tmp_path):
    folder, env, start = cluster
    env = project(tmp_path/"p", env) | dict(FAKE_SLEEP="2")
    random.seed(26)
    kills = [("controller", "node", "job", "submitter")[i % 4] for i in range(int(os.environ.get("CATSCANS_KILLS", 4)))]
    random.shuffle(kills)
    for attempt in range(len(kills) + 6):
        p = subprocess.Popen(command(*SMALL, "--engine", "slurm"), env=env, cwd=tmp_path/"p", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        end = time.time() + 900
        while p.poll() is None:
            assert time.time() < end, "it hangs"
            if kills and jobs(folder):
                time.sleep(random.uniform(0, 6))
                killing(kills.pop(), folder, start, p)
            time.sleep(1)
        if p.returncode == 0 and not kills: break
        if p.returncode == 0: shutil.rmtree(tmp_path/"p"/"results")      # done before all were killed: once more
    assert p.returncode == 0 and not kills, p.stdout.read()[-3000:]
    assert same(tmp_path/"p", local) == {} and jobs(folder) == []


@pytest.mark.slow(60)
def test_a_killed_submitters_jobs_are_ended_and_a_second_submitter_is_refused(cluster, tmp_path):
    folder, env, _ = cluster
    env = project(tmp_path/"p", env) | dict(FAKE_SLEEP="120")
    run = lambda: subprocess.Popen(command(*SMALL, "--engine", "slurm"), env=env, cwd=tmp_path/"p", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    first = run()
    end = time.time() + 120
    while not jobs(folder) and time.time() < end: time.sleep(.5)
    second = run()
    assert second.wait() == 2 and f"is being run already (process {first.pid})" in second.stderr.read()
    left = {number for number, _ in jobs(folder)}
    kill_tree(psutil.Process(first.pid))
    assert left and left <= {number for number, _ in jobs(folder)}, "killing the submitter ended its jobs: nothing to test"
    third = run()
    while left & {number for number, _ in jobs(folder)} and time.time() < end + 120: time.sleep(.5)
    assert not left & {number for number, _ in jobs(folder)}
    third.send_signal(signal.SIGINT)
    assert third.wait() == 130
    while jobs(folder) and time.time() < end + 180: time.sleep(.5)
    assert jobs(folder) == []


def test_who_holds_a_profile_is_named_with_another_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    with machine.only_one("toy") as (path, _, _):
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(host="node7")))
        with pytest.raises(UserError, match=f"process {os.getpid()} on node7"), machine.only_one("toy"): pass


def test_a_number_of_another_machine_is_no_process_of_this_one(tmp_path):
    p, lock = subprocess.Popen(["sleep", "60"]), tmp_path/"lock"
    try:
        said = dict(engine=p.pid, created=psutil.Process(p.pid).create_time(), mark="no mark")
        lock.write_text(json.dumps(said | dict(host="node7")))
        assert machine._leftover(lock) == []
        lock.write_text(json.dumps(said | dict(host=platform.node())))
        assert [x.pid for x in machine._leftover(lock)] == [p.pid]
    finally: p.kill()
