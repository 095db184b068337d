"The grid through the real engine and real kernels: done once, resumed after any death, never by two at once."
import json, os, shutil, signal, socket, subprocess, sys, time

import psutil
import pytest

from catscans.core import files
from catscans.core import grid
from catscans.records import examples
from catscans.records import store
from catscans.figures import report
from catscans.study.cli import main
from catscans.study import notebooks
from catscans.study import done, plan
from fakes import ROOT, catscans, command, fake_project, records_of, similarity_record, sound_record

SMALL = "run --profile toy --source dtd stl10 --target chest --jobs 2".split()
SLUGS = ["finetune-toy-dtd--toy-chest-grouped-s1", "finetune-toy-stl10--toy-chest-grouped-s1", "pretrain-toy-dtd-grouped-s1", "pretrain-toy-stl10-grouped-s1"]


@pytest.fixture
def project(tmp_path):
    return tmp_path, fake_project(tmp_path)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    env = fake_project(folder)
    return folder, env, catscans(env, *SMALL)


@pytest.fixture
def finished(finished_once, tmp_path):
    "a copy of a project whose grid has been run"
    folder, env, p = finished_once
    assert p.returncode == 0, p.stderr
    shutil.copytree(folder, tmp_path/"copy")
    return tmp_path/"copy", env | {"CATSCANS_PROJECT": str(tmp_path/"copy")}


def of_this_project(folder):
    "processes that work for a project, kernels included"
    found = []
    for p in psutil.process_iter():
        try:
            if p.pid != os.getpid() and p.status() != psutil.STATUS_ZOMBIE and p.environ().get("CATSCANS_PROJECT") == str(folder): found.append(p)
        except psutil.Error: pass
    return found


def forked(p):
    "is this the fork server, or a fork of it?"
    return any("catscans.study.forkserver" in said for said in p.cmdline())


def wait_for(what, seconds=90):
    end = time.time() + seconds
    while not (got := what()):
        assert time.time() < end, "nothing happened"
        time.sleep(.1)
    return got


def start(env, *args, **more):
    return subprocess.Popen(command(*args), env=dict(env, **more), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=env["CATSCANS_PROJECT"])


def test_grid_runs_once(finished_once):
    folder, env, p = finished_once
    assert p.returncode == 0, p.stderr
    assert "4 of 4 steps are done" in p.stdout and "training steps" not in p.stdout      # like older records, these do not say where their time went
    assert sorted(records_of(folder)) == SLUGS
    for slug in SLUGS: assert (folder/"work"/"toy"/"notebooks"/f"{slug}.ipynb").exists()
    assert len(p.stderr.splitlines()) == 4, p.stderr                 # one line per step, nothing of the engine's talk
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*.json") if ".snakemake" not in str(f)}
    again = catscans(env, *SMALL)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)
    assert before == {f: f.stat().st_mtime_ns for f in folder.rglob("*.json") if ".snakemake" not in str(f)}
    status = catscans(env, "status", "--profile", "toy")
    assert "pretrain      2 of 9 done" in status.stdout and "left: pretrain toy-imagenet (not run yet)" in status.stdout
    assert "with" in status.stdout.splitlines()[-1]                  # an estimate from recorded times


@pytest.mark.slow(18)
def test_failure_is_named_and_the_rest_goes_on(project):
    folder, env = project
    p = catscans(env, *SMALL, FAKE_FAIL="pretrain-toy-dtd-grouped-s1")
    executed = folder/"work"/"toy"/"notebooks"/"pretrain-toy-dtd-grouped-s1.ipynb"
    assert p.returncode == 1 and "1 of 4 steps failed" in p.stderr, p.stderr
    assert "ValueError: a planted fault" in p.stderr and f"executed notebook: {executed}" in p.stderr and "1 were not started" in p.stderr
    assert "a planted fault" in executed.read_text()
    assert sorted(records_of(folder)) == [s for s in SLUGS if "dtd" not in s]
    assert "failed: pretrain toy-dtd" in catscans(env, "status").stdout
    before = (folder/"results/toy/records/pretrain-toy-stl10-grouped-s1.json").stat().st_mtime_ns
    p = catscans(env, *SMALL)
    assert p.returncode == 0 and sorted(records_of(folder)) == SLUGS
    assert (folder/"results/toy/records/pretrain-toy-stl10-grouped-s1.json").stat().st_mtime_ns == before


@pytest.mark.slow(22)
def test_many_kernels_at_once(project):
    "started together they must not take each other's channel"
    folder, env = project
    p = catscans(env, *"run --profile toy --source dtd stl10 sti10 imagenet --target chest --jobs 8".split())
    assert p.returncode == 0 and len(records_of(folder)) == 8, p.stderr


@pytest.mark.slow(14)
def test_a_mistake_of_the_user_found_late_is_still_exit_code_2(project):
    folder, env = project
    p = catscans(env, *SMALL, FAKE_USER_ERROR="finetune-toy-dtd--toy-chest-grouped-s1")
    assert p.returncode == 2 and "images/7.png cannot be read" in p.stderr


@pytest.mark.slow(10)
def test_a_dead_kernel_is_a_failure_with_a_name(project):
    folder, env = project
    p = catscans(env, *SMALL, FAKE_DIE="pretrain-toy-dtd-grouped-s1")
    assert p.returncode == 1 and "pretrain toy-dtd: DeadKernelError" in p.stderr


@pytest.mark.slow(16)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_run_leaves_nothing_running_and_resumes(project, how):
    folder, env = project
    p = start(env, *SMALL, FAKE_SLEEP="60")
    marker = folder/"work"/"toy"/"state"/"pretrain-toy-dtd-grouped-s1.json"
    wait_for(marker.exists)
    wait_for(lambda: len([q for q in of_this_project(folder) if forked(q)]) >= 3)   # server, step, kernel
    p.send_signal(how)
    out, err = p.communicate(timeout=20)
    if how != signal.SIGKILL: assert p.returncode == 130 and "interrupted" in err
    wait_for(lambda: not of_this_project(folder), 8)
    assert records_of(folder) == {}
    p = catscans(env, *SMALL)
    assert p.returncode == 0 and sorted(records_of(folder)) == SLUGS, p.stderr


def test_a_run_never_kills_strangers(tmp_path, monkeypatch):
    "the lock that a killed run left names a process group that is somebody else's since a restart"
    from catscans.study import machine
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path))
    begin = lambda **e: subprocess.Popen(["sleep", "60"], start_new_session=True, env=dict(os.environ, **e))
    stranger, leftover = begin(), begin(CATSCANS_RUN="that of the killed run")
    try:
        for old in (dict(pid=1, engine=stranger.pid, started=0), dict(pid=1, engine=stranger.pid, created=1., mark="that of the killed run", started=0), [], dict(engine="x", mark=7)):
            (files.work_dir("toy")/"run.lock").write_text(json.dumps(old))
            with machine.only_one("toy"): pass
            assert stranger.poll() is None
        leftover.wait(5)                                             # what bears the mark of the killed run is ended
        (files.work_dir("toy")/"run.lock").write_text(json.dumps(dict(engine=stranger.pid, created=psutil.Process(stranger.pid).create_time())))
        with machine.only_one("toy"): stranger.wait(5)
    finally:
        for p in (stranger, leftover): p.kill(); p.wait()


def test_steps_are_forks_and_end_with_their_run(project):
    "one process imports for all steps; none of them outlives a run that was killed"
    folder, env = project
    p = start(env, *SMALL, FAKE_SLEEP="60")
    marker = folder/"work"/"toy"/"state"/"pretrain-toy-dtd-grouped-s1.json"
    wait_for(marker.exists)
    server, = [q for q in of_this_project(folder) if forked(q) and not forked(q.parent())]
    jobs = wait_for(lambda: len(found := server.children()) == 2 and found)
    wait_for(lambda: all(len(j.children()) == 1 for j in jobs))      # a kernel each
    jobs[0].kill()
    wait_for(lambda: len(server.children()) == 1, 10)                # its kernel has nobody to work for
    server.kill()
    out, err = p.communicate(timeout=30)
    assert p.returncode == 1 and err.count("was killed") == 2, err
    wait_for(lambda: not of_this_project(folder), 8)


def test_a_fork_server_says_no_where_it_cannot(tmp_path):
    "a client that is not told `forked` runs its step in a process of its own"
    from catscans.study import forkserver
    step = [sys.executable, "-IS", str(ROOT/"workflow"/"step.py"), json.dumps(dict(profile="toy")), "no-such-step"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")} | dict(PYTHONPATH=str(ROOT))
    for name in ("", "catscans-nobody-listens"):
        p = subprocess.run(step, env=dict(env, CATSCANS_FORKSERVER=name), capture_output=True, text=True)
        assert p.returncode == 1 and "KeyError: 'no-such-step'" in p.stderr, p.stderr
    server = forkserver.Server(socket.socket(socket.AF_UNIX))
    server.parent = -1                                               # nobody started it: it ends at once
    server.serve()


@pytest.mark.slow(5)
def test_a_fork_server_whose_parent_ends_while_it_imports_ends_too(tmp_path):
    "an engine that stops at once, at a mistake in its file say, must not leave one that waits for ever"
    env = dict(os.environ, CATSCANS_PROJECT=str(tmp_path), PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-c", "from catscans.study.forkserver import start; start(False)"], env=env, check=True)
    assert of_this_project(tmp_path)                                 # it is at its imports
    try: wait_for(lambda: not of_this_project(tmp_path), 40)
    finally:
        for p in of_this_project(tmp_path): p.kill()


def test_a_fork_server_outlives_a_client_that_is_gone_and_a_want_of_processes(tmp_path, monkeypatch):
    "every step of a run would end with it"
    from catscans.study import forkserver
    def asked(door, stay):
        here = socket.socket(socket.AF_UNIX)
        here.connect(door.getsockname())
        here.sendall(b'{"kind": "alone", "step": []}\n')
        if not stay: here.close()
        return here
    def no_room(): raise BlockingIOError(11, "Resource temporarily unavailable")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"\0catscans-test-{os.getpid()}")
        door.listen()
        server = forkserver.Server(door, work=lambda stays: lambda step: (0, False))
        monkeypatch.setattr(forkserver, "threads_now", lambda: 1)    # a test process may have more
        asked(door, stay=False)
        server.enter(door)
        wait_for(lambda: server.reap() or not server.workers, 10)
        monkeypatch.setattr(os, "fork", no_room)
        here = asked(door, stay=True)
        server.enter(door)
        assert here.makefile().read() == ""                          # not `forked`: the client does it itself


@pytest.mark.slow(16)
def test_two_runs_at_once(project):
    folder, env = project
    first = start(env, *SMALL, FAKE_SLEEP="10")
    wait_for(lambda: list((folder/"work"/"toy"/"state").glob("pretrain-*.json")))
    second = catscans(env, *SMALL)
    assert second.returncode == 2 and f"is being run already (process {first.pid})" in second.stderr
    assert "running: pretrain toy-" in catscans(env, "status").stdout
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err


@pytest.mark.slow(7)
def test_other_settings_and_lost_weights_are_run_again(finished):
    folder, env = finished
    path = folder/"results"/"toy"/"records"/"finetune-toy-dtd--toy-chest-grouped-s1.json"
    rec = json.loads(path.read_text())
    store.write(rec | {"settings": rec["settings"] | {"size": 999}}, path)
    (folder/"work/toy/weights/pretrain-toy-dtd-grouped-s1.weights.h5").unlink()
    others = {f: f.stat().st_mtime_ns for f in path.parent.glob("*stl10*")}
    p = catscans(env, *SMALL)
    assert p.returncode == 0 and "2 of them now" in p.stdout and "1 record does not count any more and was moved" in p.stderr, p.stderr
    assert json.loads(path.read_text())["settings"]["size"] == 32
    assert len(list((folder/"work"/"toy"/"set-aside").iterdir())) == 1
    assert others == {f: f.stat().st_mtime_ns for f in others}


def flip(path, at):
    "another byte at a place in a file"
    b = bytearray(path.read_bytes()); b[at] ^= 1; path.write_bytes(b)


@pytest.mark.slow(9)
def test_damaged_weights_are_named_and_made_again(finished):
    folder, env = finished
    weights, record = folder/"work/toy/weights/pretrain-toy-dtd-grouped-s1.weights.h5", folder/"results"/"toy"/"records"/"finetune-toy-dtd--toy-chest-grouped-s1.json"
    whole = weights.read_bytes()
    flip(weights, whole.index(b"pretrain-toy-dtd"))
    assert "nothing to do" in catscans(env, *SMALL).stdout           # nobody reads them
    record.unlink()
    p = catscans(env, *SMALL)
    assert p.returncode == 0 and "2 of them now" in p.stdout and f"note: the weights in {weights} are not those that were recorded" in p.stderr, p.stderr
    assert weights.read_bytes() == whole and record.exists()


@pytest.mark.slow(9)
def test_a_clock_that_was_set_back_is_no_failure(finished):
    "weights, records and notebooks dated in the future: what is made from them is older, which says nothing"
    folder, env = finished
    record = folder/"results"/"toy"/"records"/"finetune-toy-dtd--toy-chest-grouped-s1.json"
    record.unlink()
    tomorrow = time.time() + 86400
    for f in (*folder.glob("work/toy/weights/*"), *record.parent.iterdir(), *folder.glob("nbs/paper/*")): os.utime(f, (tomorrow, tomorrow))
    p = catscans(env, *SMALL)
    assert p.returncode == 0 and "1 of them now" in p.stdout and record.exists(), p.stderr


def test_weights_are_compared_with_their_record_before_they_are_used(tmp_path, monkeypatch):
    "by whoever is about to train from them: the engine, a slice, a notebook"
    import numpy as np
    from types import SimpleNamespace
    from catscans.core.basics import UserError
    from catscans.models.weights import save_weights
    from catscans.transfer import run as transfer_run
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    steps = plan.plan("toy", ["dtd", "stl10"], ["chest"])
    pre = next(s for s in steps if s.slug == "pretrain-toy-dtd-grouped-s1")
    rec, weights = examples.example_record(pre.run), dict(a=np.arange(99, dtype="float32"))
    source = SimpleNamespace(x=np.zeros((1, 32, 32, 3)), fingerprint=rec["data"]["source"]["fingerprint"])
    job = transfer_run.Job(grid.Run("toy-dtd", "toy-chest"), grid.PROFILES["toy"], None, 32)
    with pytest.raises(UserError, match="no record .*pretrain-toy-dtd"): transfer_run._source_weights(job, source)
    store.write(rec | dict(folds=[dict(weights_sha256=save_weights(weights, pre.run.weights))]))
    assert done.damaged_weights(steps, dict.fromkeys(s.slug for s in steps if s.run.target)) == {}
    assert np.array_equal(transfer_run._source_weights(job, source)["a"], weights["a"])
    save_weights(dict(a=weights["a"] + 1), pre.run.weights)          # whole, but of another training
    for damage in (lambda: None, lambda: flip(pre.run.weights, pre.run.weights.read_bytes().index(np.float32(50).tobytes())), lambda: pre.run.weights.write_bytes(b"")):
        damage()
        [(slug, why)] = done.damaged_weights(steps, dict.fromkeys(s.slug for s in steps if s.run.target)).items()
        assert slug == pre.slug and why.kind == "weights" and str(pre.run.weights) in why and "delete" not in why
        with pytest.raises(UserError, match="pretrain-toy-dtd.*(not those that were recorded|not a readable weights file)"): transfer_run._source_weights(job, source)
    assert done.damaged_weights(steps, {}) == {}                     # what nobody reads is not read


@pytest.mark.parametrize("damage", ["stump", "no folds", "settings a list", "timing a list", "text for a number", "a digit", "another's", "cut", "not text"])
def test_a_record_counts_only_when_it_is_whole(damage, tmp_path, monkeypatch, capsys):
    "the right slug is not enough; and no question about a damaged record ends in a traceback"
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    [step] = [s for s in plan.plan("toy", ["dtd"], ["chest"]) if s.run.target]
    rec = sound_record(step.run)
    store.write(rec | dict(settings=rec["settings"] | done.expected_settings(step.run)))
    assert done.problem(step) == "" and main(["check", "--profile", "toy"]) == 0 and "1 record, " in capsys.readouterr().out
    text, rec = step.product.read_text(), json.loads(step.product.read_text())
    bad = {"stump": json.dumps(dict(slug=step.slug)), "no folds": json.dumps(rec | dict(folds={})), "settings a list": json.dumps(rec | dict(settings=[])),
           "timing a list": json.dumps(rec | dict(timing=[])), "text for a number": json.dumps(rec | dict(metrics=rec["metrics"] | dict(auc_ovr_weighted_mean="high"))),
           "a digit": text.replace('"wall_s": 0.', '"wall_s": 1.'), "another's": json.dumps(examples.example_record(grid.Run("toy-dtd", "toy-isic2018"))), "cut": text[:700],
           "not text": "\udcff\udcfe"}[damage]
    step.product.write_text(bad, errors="surrogateescape")
    assert done.problem(step).kind == "damaged"
    assert main(["status"]) == 0 and main(["check", "--profile", "toy"]) == 1
    out = capsys.readouterr().out
    assert f"{step.product}: " in out and "1 thing is wrong" in out
    assert main(["figures", "--profile", "toy"]) == 2                # not complete, and no traceback


@pytest.mark.slow(6)
def test_check_finds_every_planted_damage(tmp_path, monkeypatch):
    "50 of them, in records, weights, image stores and figures"
    import numpy as np
    from catscans.datasets.loading import load
    from catscans.models.weights import save_weights
    from catscans.study.verify import verify
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    tuned, pre = grid.Run("toy-dtd", "toy-chest"), grid.Run("toy-dtd")
    record = store.write(sound_record(tuned))
    weights = dict(a=np.random.default_rng(0).normal(size=999).astype("float32"))
    store.write(examples.example_record(pre) | dict(folds=[dict(weights_sha256=save_weights(weights, pre.weights))]))
    pixels = load("toy-chest", size=32).x.filename
    (fig := files.figures_dir("toy")/"fig3_auc.csv").parent.mkdir(parents=True)
    fig.write_bytes(bytes(range(256)))
    monkeypatch.setattr(notebooks, "drawn_from", lambda step: "now")
    notebooks._sign(next(s for s in plan.plan("toy") if s.notebook == "results"))
    wrong, said = verify("toy")
    assert wrong == [] and "2 records, 1 weights file, 0 checkpoints, 1 image store, 1 drawing note, 1 figure; nothing is wrong" in said
    rng = np.random.default_rng(1)
    places = [(record, 0), (pre.weights, pre.weights.read_bytes().index(weights["a"].tobytes())), (files.Path(pixels), 128), (files.Path(pixels).with_name("labels.npy"), 128), (fig, 0)]
    for i in range(50):
        path, head = places[i % len(places)]
        whole = path.read_bytes()
        end = head + weights["a"].nbytes if path == pre.weights else len(whole)
        if i < 10: path.write_bytes(whole[:-9] if i < 5 and path != pre.weights else whole[:len(whole)//2])
        else: flip(path, int(rng.integers(head, end)))
        wrong, _ = verify("toy")
        assert len(wrong) == 1 and str(path.parent) in wrong[0], (path, wrong)
        path.write_bytes(whole)
    assert verify("toy")[0] == []


def test_settings_that_would_stop_a_step_are_refused_before_anything_is_paid_for(project, monkeypatch, capsys):
    folder, env = project
    for k in [k for k in os.environ if k.startswith("CATSCANS_")]: monkeypatch.delenv(k)
    monkeypatch.chdir(folder)
    small = "run --source dtd --target chest".split()
    def said(*args, **settings):
        with monkeypatch.context() as m:
            for k, v in settings.items(): m.setenv(k, str(v))
            assert main(list(args)) == 2
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == 1, err
        return err
    monkeypatch.setenv("CATSCANS_PROJECT", str(folder))
    for n in ("x", "0", "1.5", "-1", "9999999"): assert f"CATSCANS_THREADS: received '{n}', allowed is a whole number" in said(*small, CATSCANS_THREADS=n)
    assert "choose a folder without { and }" in said(*small, CATSCANS_WORK=folder/"{profile}")
    assert "choose a folder without { and }" in said(*small, CATSCANS_PROJECT=folder/"a}")
    old = folder/"results"/"toy"/"records"/"pretrain-toy-dtd-grouped-s1.json"
    old.parent.mkdir(parents=True); old.write_text("{}")
    assert "unknown CATSCANS_FORKS: received 'never', allowed are yes, each, no" in said(*small, CATSCANS_FORKS="never")
    assert old.exists()                                              # nothing was set aside for a run that cannot begin
    shutil.rmtree(folder/"results")
    lock = folder/"work"/"toy"/"run.lock"
    lock.mkdir(parents=True)
    assert f"cannot write the lock {lock} (Is a directory)" in said(*small)
    assert main(["status"]) == 0                                     # no traceback
    lock.rmdir()
    from catscans.study import engine
    def full(*a): raise OSError(28, "No space left on device", str(lock))
    monkeypatch.setattr(engine, "_engine_command", full)
    assert f"cannot write {lock} (No space left on device): make room" in said(*small)
    assert not (folder/"results").exists()


def test_where_work_lies_is_the_same_for_every_process(tmp_path, monkeypatch):
    "steps run in other folders than the command: a path relative to one, or with ~, named another place for each"
    from types import SimpleNamespace
    from catscans.study import engine
    monkeypatch.setenv("HOME", str(tmp_path)); monkeypatch.chdir(tmp_path)
    for said, where in (("w", tmp_path/"w"), ("~/v", tmp_path/"v"), ("../u", tmp_path/".."/"u")):
        monkeypatch.setenv("CATSCANS_WORK", said)
        assert files.work_root() == where and files.work_root().is_absolute() and files.work_dir("toy") == where/"toy"
        monkeypatch.setattr(engine, "_engine_command", lambda *a: [sys.executable, "-c", "import os; print(os.environ['CATSCANS_WORK'])"])
        with open(tmp_path/"said", "w") as out: engine._start(dict(profile="toy"), [], SimpleNamespace(engine="local", verbose=False, lock=tmp_path, mark=""), out).wait()
        assert (tmp_path/"said").read_text().strip() == str(where)


def test_threads_that_were_asked_for_are_used_and_throw_no_record_away(tmp_path, monkeypatch):
    from catscans.study import machine
    from catscans.transfer.world import threads_for
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    step, said = plan.plan("toy", ["dtd"])[0], []
    monkeypatch.setattr(machine, "cores", lambda: 8); monkeypatch.setattr(machine, "gpus", lambda: 0)
    monkeypatch.setattr(notebooks, "execute_notebook", lambda *a: said.append(a[3]) or "")
    monkeypatch.setattr(notebooks, "notebook", lambda name: name)
    rec = examples.example_record(step.run)
    for n in (1, 4):                                                 # the profile's, and the asked
        monkeypatch.delenv("CATSCANS_THREADS", raising=False)
        store.write(rec | dict(settings=rec["settings"] | done.expected_settings(step.run) | dict(threads=n)))
        assert (done.problem(step).kind == "settings") == (n == 4)
        monkeypatch.setenv("CATSCANS_THREADS", "4")
        assert done.problem(step) == ""
    assert threads_for(grid.PROFILES["toy"]) == 4 and machine.jobs_for("toy") <= 2
    notebooks._execute(step)
    assert said == [4]


@pytest.mark.slow(10)
def test_damaged_record_and_one_of_other_generated_images_are_run_again(finished):
    folder, env = finished
    path, other = (folder/"results"/"toy"/"records"/f"{n}-grouped-s1.json" for n in ("finetune-toy-dtd--toy-chest", "pretrain-toy-stl10"))
    path.write_text(path.read_text()[:500])
    rec = json.loads(other.read_text())
    store.write(rec | {"data": rec["data"] | {"source": rec["data"]["source"] | {"fingerprint": "made by yesterday's program"}}}, other)
    assert "left: pretrain toy-stl10 (made from other images of toy-stl10 than are made today)" in catscans(env, "status").stdout
    p = catscans(env, *SMALL)
    assert p.returncode == 0 and "2 of them now" in p.stdout, (p.stdout, p.stderr)
    json.loads(path.read_text())
    assert json.loads(other.read_text())["data"] == rec["data"]


def test_a_clone_with_records_but_no_work_has_nothing_to_train(finished):
    "as for committed records: no weights, any times"
    folder, env = finished
    shutil.rmtree(folder/"work")
    for f in (folder/"nbs"/"paper").iterdir(): os.utime(f)
    assert "nothing to do" in catscans(env, *SMALL).stdout


def test_whole_toy_grid_is_planned(project):
    folder, env = project
    cmd = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT/"workflow"/"Snakefile"), "--directory", str(folder/"work"), "--cores", "2",
           "--config", "profile=toy", "--dry-run", "--quiet", "host"]
    p = subprocess.run(cmd, env=env, capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    text = p.stdout + p.stderr
    assert "total" in text and any(line.split() == ["total", "39"] for line in text.splitlines()), text[-800:]   # 9 + 27 + similarity + results + all


def test_weights_without_their_record_do_not_stand_for_it(project):
    "a kill between the two, a record that was removed: what starts from the source waits for it, and is not forgotten"
    folder, env = project
    (weights := folder/"work"/"toy"/"weights"/"pretrain-toy-dtd-grouped-s1.weights.h5").parent.mkdir(parents=True)
    weights.write_text("of a run that was killed")
    records = [str(folder/"results"/"toy"/"records"/f"{s}.json") for s in SLUGS if "dtd" in s]
    cmd = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT/"workflow"/"Snakefile"), "--directory", str(folder/"work"), "--cores", "2",
           "--config", "profile=toy", "--workflow-profile", str(ROOT/"workflow"/"profiles"/"default"), "--dry-run", "--quiet", "host", "--", *records]
    p = subprocess.run(cmd, env=env, capture_output=True, text=True, timeout=120)
    assert p.returncode == 0 and any(line.split() == ["total", "2"] for line in (p.stdout + p.stderr).splitlines()), (p.stdout + p.stderr)[-800:]


def test_done_is_said_only_when_every_product_is_there(tmp_path, monkeypatch, capsys):
    "an engine that ends well has not said that it made what was asked for"
    from catscans.study import engine, status
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    steps = plan.plan("toy", ["dtd"], ["chest"])
    monkeypatch.setattr(engine, "left_of", lambda steps: {steps[1].slug: done.Why("not run yet", "missing")})
    assert engine._summary("toy", steps, status.Watch(steps, steps, 1), 0, tmp_path/"log", 1.) == 1
    out, err = capsys.readouterr()
    assert "are done" not in out and "1 step is not done" in err and "finetune toy-dtd -> toy-chest: not run yet" in err
    monkeypatch.setattr(engine, "left_of", lambda steps: {})
    assert engine._summary("toy", steps, status.Watch(steps, steps, 1), 0, tmp_path/"log", 1.) == 0 and "2 of 2 steps are done" in capsys.readouterr().out


def test_an_engine_that_was_killed_is_called_that(tmp_path, monkeypatch, capsys):
    "the steps that it took with it were not killed for want of memory; one whose own process ended may have been"
    from catscans.study import engine, status
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    steps = plan.plan("toy", ["dtd"], ["chest"])
    notebooks._mark(steps[0], "running")
    for code, said in ((-9, "the workflow engine was killed (SIGKILL) while this ran"), (1, "its process was killed (out of memory?)")):
        watch = status.Watch(steps, steps, 1)
        watch.look()
        assert engine._summary("toy", steps, watch, code, tmp_path/"log", 1.) == 1
        err = capsys.readouterr().err
        assert f"pretrain toy-dtd: {said}" in err and "1 of 2 steps failed, 1 were not started" in err and ("memory" in err) == (code == 1), err


@pytest.mark.slow(29)
def test_published_is_drawn_once_and_again_when_a_figure_is_gone(project):
    folder, env = project
    p = catscans(env, "run", "--profile", "published")
    assert p.returncode == 0, p.stderr
    assert (folder/"results"/"published"/"report.md").exists()
    assert "nothing to do" in catscans(env, "run", "--profile", "published").stdout
    (folder/"figures"/"published"/"fig3_auc.csv").unlink()
    assert "fig3_auc.csv is missing" in catscans(env, "status", "--profile", "published").stdout
    assert catscans(env, "run", "--profile", "published").returncode == 0
    assert (drawn := folder/"figures"/"published"/"fig3_auc.csv").exists()
    drawn.write_text("the old ones")                                  # a drawing that stops halfway leaves them
    nb = folder/"nbs"/"paper"/"results.ipynb"
    nb.write_text(nb.read_text().replace('tmp.write_text(\\"drawn\\")', 'tmp.write_text(\\"half\\"); tmp.with_name(\\"fig4.csv\\").write_text(\\"half\\"); 1/0'))
    p = catscans(env, "figures", "--profile", "published")
    assert p.returncode == 1 and "ZeroDivisionError" in p.stderr, p.stderr
    assert {f.name: f.read_text() for f in drawn.parent.iterdir()} == {"fig3_auc.csv": "the old ones"}
    assert not (folder/"work"/"published"/"figures-before").exists()


REAL = "run --profile toy --source pcam-small random --target chest --jobs 2".split()


def real_project(folder):
    "a project with the real notebooks, and the environment to run it in"
    folder.mkdir()
    shutil.copy(ROOT/"settings.ini", folder)
    for d in ("nbs/paper", "workflow"): shutil.copytree(ROOT/d, folder/d)
    return {k: v for k, v in os.environ.items() if not k.startswith("CATSCANS_")} | {"PYTHONPATH": str(ROOT), "CATSCANS_PROJECT": str(folder)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "a project in which one source and random initialisation were really trained"
    folder = tmp_path_factory.mktemp("real")/"whole"
    env = real_project(folder)
    p = catscans(env, *REAL, timeout=600)
    assert p.returncode == 0, p.stderr
    return folder


@pytest.mark.slow(108)
def test_two_sources_one_target_for_real(trained, tmp_path):
    "the real notebooks, kernels, training and images; killed once and resumed, the records are the same"
    projects, small = [trained, tmp_path/"killed"], REAL
    killed = real_project(projects[1])
    first = start(killed, *small)
    wait_for(lambda: list(projects[1].glob("work/toy/checkpoints/finetune-*/fold2.npz")), 300)
    first.kill(); first.wait()
    assert not records_of(projects[1]).get("finetune-random--toy-chest-grouped-s1")
    p = catscans(killed, *small, timeout=600)
    assert p.returncode == 0, p.stderr
    assert "Outside training steps 3 runs spent" in p.stdout
    a, b = (records_of(f) for f in projects)
    assert sorted(a) == sorted(b) and len(a) == 3
    for slug in a: assert store.differences(a[slug], b[slug]) == []
    for slug in a:
        text = (projects[0]/"work"/"toy"/"notebooks"/f"{slug}.ipynb").read_text()
        assert text.count("image/png") == 2 and "Parameters" in text


SMALLER = """
import dataclasses
from catscans.core import grid
pairs = tuple((s, "toy-chest") for s in ("toy-pcam-small", "toy-dtd", "toy-stl10", "random"))
grid.PROFILES["toy"] = dataclasses.replace(grid.PROFILES["toy"], sources=("toy-pcam-small", "toy-dtd", "toy-stl10"), targets=("toy-chest",), pairs=pairs, probe="source:toy-pcam-small", subsets=1)
"""


@pytest.mark.slow(35)
def test_similarity_and_results_notebooks(trained, tmp_path, monkeypatch):
    "through a papermill kernel, on a part of the toy grid: a trained probe, made-up records of the rest, the real images"
    import re
    from fakes import shared_stores
    (tmp_path/"sitecustomize.py").write_text(SMALLER)                 # the kernel's profile, and this process's
    monkeypatch.setitem(grid.PROFILES, "toy", grid.PROFILES["toy"])
    exec(SMALLER)
    real_project(tmp_path/"project")
    for k, v in dict(CATSCANS_PROJECT=tmp_path/"project", CATSCANS_WORK=tmp_path/"work", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}").items(): monkeypatch.setenv(k, str(v))
    for k in ("PYTHONHASHSEED", "TF_CPP_MIN_LOG_LEVEL", "TF_NUM_INTEROP_THREADS", *notebooks._THREADS): monkeypatch.setenv(k, "1")    # set by what follows: put back afterwards
    (tmp_path/"work").mkdir(); (tmp_path/"work"/"stores").symlink_to(shared_stores())
    steps = plan.plan("toy")
    assert [s.notebook for s in steps] == ["pretrain"]*3 + ["finetune"]*4 + ["similarity", "results"]
    for s in steps[:-2]: store.write(examples.example_record(s.run))
    shutil.copy(trained/"work"/"toy"/"weights"/steps[0].run.weights.name, steps[0].run.weights)
    for s in steps[-2:]: assert notebooks.execute_notebook(plan.notebook(s.notebook), s.executed, s.parameters) == ""
    rec = store.read(steps[-2].product)
    names = rec["matrices"]["task2vec_cosine"]["names"]
    assert set(names) == {"toy-pcam-small", "toy-dtd", "toy-stl10", "toy-chest"} and {r["measure"] for r in rec["distances"]} == {"experts", "task2vec_cosine"}
    v = rec["matrices"]["task2vec_cosine"]["value"]
    assert all(0 < v[i][j] < 2 and abs(v[i][j] - v[j][i]) < 1e-12 for i in range(4) for j in range(i))
    shown = set(re.findall(r'show\("(\w+)"\)', plan.notebook("results").read_text().replace("\\", "")))
    drawn = {f.stem for f in files.figures_dir("toy").glob("*.csv")}
    assert drawn == shown & set(report.items("toy")) and {"fig1_samples", "fig4_distance", "fig7_critical_difference", "table6_correlations"} <= drawn
    for f in files.figures_dir("toy").glob("*.png"): assert f.stat().st_size > 5000, f.name


def test_wrong_data_are_found_before_anything_is_drawn(tmp_path, monkeypatch, capsys):
    "when only the figures of real images are left"
    fake_project(tmp_path)
    shutil.rmtree(tmp_path/"work")
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path)); monkeypatch.setenv("CATSCANS_DATA", str(tmp_path)); monkeypatch.delenv("CATSCANS_WORK", raising=False)
    for r in grid.runs("lite"):
        rec = examples.example_record(r)
        store.write(rec | {"settings": rec["settings"] | done.expected_settings(r)})
    p = grid.PROFILES["lite"]
    store.write(similarity_record("lite", p.protocol, p.seed))
    (drawn := files.figures_dir("lite")/"table1_datasets.csv").parent.mkdir(parents=True)
    drawn.write_text("the old ones")
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
    for line in ("run", "figures"):
        assert main([line, "--profile", "lite"]) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and f"tinyimagenet: no images under CATSCANS_DATA, which is {tmp_path}" in err, err
    assert before == {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}


def test_a_drawing_step_signs_only_its_own_finished_figures(tmp_path, monkeypatch):
    "results and audit draw at once into one folder: a file that the other has only begun would be missing later, and the step would run again"
    from types import SimpleNamespace
    for name, value in dict(figures_dir=lambda p: tmp_path/"figures", project_dir=lambda: tmp_path, drawn_from=lambda s: "now").items(): monkeypatch.setattr(notebooks, name, value)
    (tmp_path/"figures").mkdir()
    for f in ("fig3_auc.png", "fig3_auc.csv", "audit_sizes.png", ".audit_sizes-x1.svg", ".fig4-x2.png"): (tmp_path/"figures"/f).touch()
    for notebook, mine in (("results", ["figures/fig3_auc.csv", "figures/fig3_auc.png"]), ("audit", ["figures/audit_sizes.png"])):
        step = SimpleNamespace(notebook=notebook, profile="published", product=tmp_path/f"{notebook}.json")
        notebooks._sign(step)
        assert json.loads(step.product.read_text())["files"] == mine
