"""Kill, starve and damage a small study, and look what comes out: `python -m benchmarks.damage [--only KIND ...] [--list]`.

One source and one target of the profile toy are trained once, by a network of two layers in NumPy instead of ResNet50 (`smallnet`): a trial then takes a second,
and nothing around the network is another. Every trial has a copy of that finished project (or of one that was stopped halfway), does one thing to it, asks `catscans check`
and gives `catscans run` again; then records, weights and predictions are compared with those of the undisturbed run, to the last bit. Steps run in forked
processes; those of the kind `engine` through Snakemake, papermill and kernels as everywhere else. (Kills of a real training: `tests/test_training.py -k twenty`.)

What came of a trial: `mended` (made again, or gone on, with the same bits), `no effect`, `refused` (one line that names the culprit, and after the
damage was taken away the same command ended with the same bits), `named` (by `catscans check`, of something that nobody was about to read);
or, each of them a fault: WRONG (other results under the name of the old ones, or damage that nothing finds), LOST (work that was done and not
damaged is gone), TRACEBACK. Outcomes are lines of a file, so that a stopped benchmark goes on; seeded, so that a trial can be repeated."""
import argparse, contextlib, csv, hashlib, json, os, platform, random, re, shutil, signal, subprocess, sys, tempfile, time, traceback
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--profile", "toy", "--source", "dtd", "--target", "chest"]
PRE, TUNE = "pretrain-toy-dtd-grouped-s1", "finetune-toy-dtd--toy-chest-grouped-s1"
GOOD, FAULTS = ("mended", "no effect", "refused", "named"), ("WRONG", "LOST", "TRACEBACK")
FIELDS = ("kind", "fault", "outcome", "said", "seconds", "at")


class Fault(Exception):
    "what a trial shows that must not be"
    def __init__(self, outcome, said):
        super().__init__(said)
        self.outcome = outcome


# ---- processes

def heavy():
    "import what every training needs, once: forked processes have it already"
    os.environ |= {k: "1" for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")}
    os.environ |= dict(TF_ENABLE_ONEDNN_OPTS="1", TF_CPP_MIN_LOG_LEVEL="3", MPLBACKEND="agg", COLUMNS="9999")      # a line for each thing that is said
    from benchmarks.smallnet import install
    install()
    import catscans.training.engines, catscans.study.commands, catscans.study.engine   # noqa: F401
    import encodings.cp437, keras, scipy.fft, sklearn.metrics, sklearn.model_selection   # noqa: F401


def _child(do, out, env, before):
    "in the forked process: do it, its words going to a descriptor"
    os.setpgid(0, 0)
    for to in (1, 2): os.dup2(out, to)
    sys.stdout, sys.stderr = (open(to, "w", buffering=1, closefd=False) for to in (1, 2))    # those of the parent remember a file
    for k in [k for k in os.environ if k.startswith("CATSCANS_")]: del os.environ[k]
    os.environ |= env
    os.chdir(env["CATSCANS_PROJECT"])
    code = 70
    try:
        if before: before()
        code = do() or 0
    except BaseException: traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException): sys.stdout.flush()
        with contextlib.suppress(BaseException): sys.stderr.flush()
        os._exit(code)


def call(do, env, before=None, after=None, how=signal.SIGKILL, limit=300):
    """`do()` in a forked process: exit code, words, whether it was ended `after` so many seconds by the signal `how`;
    `before` is called in it first: a limit, another user."""
    words, out = os.pipe()          # no file: its size may be limited
    os.set_blocking(words, False)
    start = time.time()
    if not (pid := os.fork()): _child(do, out, env, before)
    os.close(out)
    code, killed, text = None, False, b""
    while code is None:
        with contextlib.suppress(BlockingIOError): text += os.read(words, 1 << 20)
        got, status = os.waitpid(pid, os.WNOHANG)
        if got: code = os.waitstatus_to_exitcode(status)
        elif time.time() - start > (after if after is not None and not killed else limit):
            with contextlib.suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL if killed else how)
            killed, limit = True, time.time() - start + 20
        else: time.sleep(.005)
    with contextlib.suppress(BlockingIOError):
        while more := os.read(words, 1 << 20): text += more
    os.close(words)
    return SimpleNamespace(code=code, text=text.decode(errors="replace"), killed=killed, seconds=time.time() - start)


def steps_here(request, steps, doing, way):
    "in place of Snakemake and kernels: the steps of a run in their order, each in a process of its own"
    from catscans.study import engine, notebooks
    from catscans.study.status import Watch
    log, code, start = Path(way.lock).with_name("engine.log"), 0, time.time()
    log.write_text("")
    for s in doing:
        notebooks._mark(s, "running")
        if not (pid := os.fork()): _step(s)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code: break
    watch = Watch(steps, doing, 1)
    watch.look()
    return engine._summary(request["profile"], steps, watch, code, log, time.time() - start)


def _step(s):
    "in the process of a step"
    from catscans.study import notebooks
    from catscans.transfer.run import execute
    error = ""
    try: execute(s.run, show=lambda line: None)
    except Exception as e: error = notebooks._in_words(type(e).__name__, str(e))
    try: notebooks._mark(s, "failed" if error else "done", seconds=1., error=error)
    except OSError: error = "no mark"
    os._exit(1 if error else 0)


def command(*args):
    "`catscans ...` in this process, its steps in forked ones"
    def do():
        from catscans.study import cli, engine
        engine._run = steps_here
        return cli.main(list(args))
    return do


# ---- projects

class Place:
    "A project of its own, as a copy of another."
    def __init__(self, folder, like=None):
        self.folder, self.env = Path(folder), dict(CATSCANS_PROJECT=str(folder))
        if like is not None: shutil.copytree(like, self.folder, symlinks=True)
        self.records, self.work = self.folder/"results"/"toy"/"records", self.folder/"work"
        self.weights = self.work/"toy"/"weights"/f"{PRE}.weights.h5"
    def record(self, slug): return self.records/f"{slug}.json"
    def store(self, name="toy-chest"): return next(f for f in sorted((self.work/"stores").glob(f"{name}-32-*")))
    def half(self, name): return next(iter(sorted((self.work/"toy"/"checkpoints").glob(f"*/{name}"))))
    def call(self, do, env=(), **how): return call(do, self.env | dict(env), **how)
    def run(self, *more, **how): return self.call(command("run", *SMALL, *more), **how)
    def check(self, profile="toy", **how): return self.call(command("check", "--profile", profile), **how)
    def load(self, name="toy-chest", **how): return self.call(_loaded(name), **how)


def _loaded(name):
    "what a training would see: the bytes that count, and the fingerprint they go by"
    def do():
        from catscans.core.basics import UserError
        from catscans.core.grid import get_profile
        from catscans.transfer.run import Job
        from catscans.core.grid import Run
        try: images = Job(Run("toy-dtd", "toy-chest"), get_profile("toy"), None, 32).images(name)
        except UserError as e:
            print(f"catscans: error: {e}", file=sys.stderr)
            return 2
        print("SEEN", hashlib.sha256(bytes(memoryview(images.x).cast("B")) + images.y.tobytes()).hexdigest(), images.fingerprint)
    return do


def state(place):
    "what a project holds, by meaning: name -> what makes it the same as another's"
    from catscans.core.basics import UserError
    from catscans.models.weights import load_weights, weights_sha256
    from catscans.records.store import _flat, whole
    out = {}
    for slug in (PRE, TUNE):
        try: out[slug] = hashlib.sha256(json.dumps(list(_flat(whole(json.loads(place.record(slug).read_text()))))).encode()).hexdigest()
        except FileNotFoundError: out[slug] = "absent"
        except (ValueError, OSError, AttributeError): out[slug] = "damaged"
    try: out["weights"] = weights_sha256(load_weights(place.weights)) if place.weights.exists() else "absent"
    except UserError: out["weights"] = "damaged"
    return out


# ---- verdicts

def one_line(got):
    "the line in which a command refused, or a fault"
    if "Traceback" in got.text or got.code not in (0, 1, 2, 130): raise Fault("TRACEBACK", (got.text.strip().splitlines() or [f"ended with {got.code}"])[-1])
    lines = [l for l in got.text.splitlines() if l.startswith(("catscans: error:", "  ")) and "executed notebook" not in l]
    return (lines or got.text.strip().splitlines() or [""])[-1].strip().removeprefix("catscans: error: ")


def refused(got, *names):
    "a command that did not do it: one line that names the culprit"
    said = one_line(got)
    if got.code not in (1, 2): raise Fault("WRONG", f"exit code {got.code}: {said}")
    if not any(str(n) in got.text for n in names): raise Fault("WRONG", f"nothing names {' or '.join(map(str, names))}: {said}")
    return said


def same_as(place, want):
    "the end of every trial: the results are those of the undisturbed run"
    got = state(place)
    off = [k for k in want if got[k] != want[k] and not (k == "weights" and got[k] == "absent")]
    if off: raise Fault("WRONG", f"{off[0]} is {'damaged' if got[off[0]] == 'damaged' else 'absent' if got[off[0]] == 'absent' else 'another'} though the run says done")


def ends_well(place, want, **how):
    "the same command again, which must end with the same bits"
    got = place.run(**how)
    said = one_line(got)
    if got.code: raise Fault("LOST", f"does not go on: {said}")
    same_as(place, want)
    return got


def untouched(place, before, but):
    "what was there and whole is there still"
    now = state(place)
    for k, v in before.items():
        if k not in but and v not in ("absent", "damaged") and now[k] != v: raise Fault("LOST", f"{k} was whole and is {now[k][:9]} now")


def after(place, want, path, undo, *names):
    "ask `check`, then `run`, and say what came of a damage to the file `path`"
    names, before = names or (path.name, path.parent.name), state(place)
    checked = place.check()
    one_line(checked)
    found = checked.code == 1 and any(n in checked.text for n in names)
    got = place.run()
    said = one_line(got)
    if got.code:
        said = refused(got, *names)
        untouched(place, before, (PRE, TUNE, "weights") if "again" in got.text else ())
        undo()
        ends_well(place, want)
        return "refused", said
    now = state(place)
    off = [k for k in want if now[k] != want[k] and not (k == "weights" and now[k] == "absent")]
    if off and not (off == ["weights"] and found): same_as(place, want)
    if off: return "named", next(l for l in checked.text.splitlines() if any(n in l for n in names))
    if "nothing to do" in got.text:
        return ("named", next(l for l in checked.text.splitlines() if any(n in l for n in names))) if found else ("no effect", "")
    return "mended", next((l for l in got.text.splitlines() if "note:" in l or "moved" in l), said)


# ---- the benchmark

class Bench:
    "The finished project, those that were stopped halfway, and a folder for trials."
    def __init__(self, folder, seed):
        self.folder, self.seed, self.n = Path(folder), seed, 0
        self.whole = Place(self.folder/"whole")
    def build(self):
        self.whole.folder.mkdir()
        (self.folder/"site").mkdir()
        (self.folder/"site"/"sitecustomize.py").write_text("from benchmarks.smallnet import install\ninstall()\n")
        shutil.copy(ROOT/"settings.ini", self.whole.folder)
        for d in ("nbs/paper", "workflow"): shutil.copytree(ROOT/d, self.whole.folder/d)
        for f in (self.whole.folder/"nbs"/"paper").glob("*.ipynb"):          # the steps, without what they show
            nb = json.loads(f.read_text())
            nb["cells"] = [c for c in nb["cells"] if "show" not in "".join(c["source"])]
            f.write_text(json.dumps(nb))
        got = self.whole.run()
        if got.code: raise SystemExit(got.text)
        self.want, self.seconds = state(self.whole), got.seconds
        self.halves = {}
        return self
    def half(self, what):
        "a project that was stopped when the first file of this name was there"
        if what not in self.halves:
            p = self.place()
            for slug in (PRE, TUNE)[what != "checkpoint.npz":]: p.record(slug).unlink()
            if what == "checkpoint.npz": p.weights.unlink()
            pid = os.fork()
            if not pid: _child(command("run", *SMALL), os.open(os.devnull, os.O_WRONLY), p.env, None)
            while not list((p.work/"toy"/"checkpoints").glob(f"*/{what}")): time.sleep(.002)
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.halves[what] = p.folder
        return self.place(self.halves[what])
    def place(self, like=None):
        self.n += 1
        return Place(self.folder/f"trial{self.n}", like or self.whole.folder)
    def clear(self, but=()):
        for f in self.folder.glob("trial*"):
            if f not in (*self.halves.values(), *but): subprocess.run(["rm", "-rf", str(f)])


def plain(text, folder):
    "a line without the names of this machine's folders"
    for d in (str(folder), str(ROOT), tempfile.gettempdir()): text = text.replace(d, "...")
    text = re.sub(r"(\.\.\./)?\btrial\d+/", "", text)       # the copy of the project that a trial had
    return " ".join(text.split())[:300]


def one(bench, trial):
    "carry out a trial"
    kind, fault, do = trial
    start = time.time()
    try: outcome, said = do(bench, random.Random(f"{bench.seed} {kind} {fault}"))
    except Fault as e: outcome, said = e.outcome, str(e)
    except Exception as e: outcome, said = "TRACEBACK", f"of the benchmark itself: {type(e).__name__}: {e} at {traceback.extract_tb(e.__traceback__)[-1].lineno}"
    bench.clear()
    return dict(kind=kind, fault=fault, outcome=outcome, said=plain(said, bench.folder), seconds=round(time.time() - start, 1))


def table(rows):
    "how often each kind came to what"
    kinds = list(dict.fromkeys(r["kind"] for r in rows))
    heads = (*GOOD, *FAULTS)
    lines = ["| damage of | trials | " + " | ".join(heads) + " |", "|" + "---|"*(len(heads) + 2)]
    count = lambda rs, o: str(sum(r["outcome"] == o for r in rs))
    for k in kinds:
        rs = [r for r in rows if r["kind"] == k]
        lines.append(f"| {k} | {len(rs)} | " + " | ".join(count(rs, o) for o in heads) + " |")
    lines.append(f"| all | {len(rows)} | " + " | ".join(count(rows, o) for o in heads) + " |")
    return "\n".join(lines)


def machine():
    "what the trials ran on, and of which commit"
    git = lambda *a: subprocess.run(["git", *a], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = " and changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"commit {git('rev-parse', '--short', 'HEAD')}{changed}, {platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def main(argv=None):
    from benchmarks.damages import trials
    p = argparse.ArgumentParser(prog="python -m benchmarks.damage", description=__doc__.splitlines()[0])
    p.add_argument("--only", nargs="+", metavar="KIND", help="only these kinds, or trials whose name holds this")
    p.add_argument("--list", action="store_true", help="name the trials and end")
    p.add_argument("--outcomes", type=Path, default=ROOT/"work"/"damage.jsonl", help="where outcomes are kept; those that are there are not tried again")
    p.add_argument("--faults", action="store_true", help="try again what came to a fault")
    p.add_argument("--csv", type=Path, help="write all outcomes as a table there, too")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args(argv)
    todo = [t for t in trials(a.seed) if not a.only or any(o == t[0] or o in t[1] for o in a.only)]
    if a.list:
        for kind, fault, _ in todo: print(f"{kind}: {fault}")
        return 0
    rows = {(r["kind"], r["fault"]): r for r in map(json.loads, a.outcomes.read_text().splitlines())} if a.outcomes.exists() else {}
    left = [t for t in todo if t[:2] not in rows or a.faults and rows[t[:2]]["outcome"] in FAULTS]
    if left:
        heavy()
        a.outcomes.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="catscans-damage-") as d, open(a.outcomes, "a") as out:
            os.chmod(d, 0o755)
            bench = Bench(d, a.seed).build()
            for t in left:
                rows[t[:2]] = r = one(bench, t) | dict(at=machine())
                out.write(json.dumps(r) + "\n")
                out.flush()
                print(f"{r['outcome']:10} {r['kind']}: {r['fault']} ({r['seconds']} s) {r['said']}", flush=True)
    rows = [rows[t[:2]] for t in todo if t[:2] in rows]
    if a.csv:
        with open(a.csv, "w", newline="") as f:
            (w := csv.DictWriter(f, FIELDS, lineterminator="\n")).writeheader()
            w.writerows(rows)
    print(f"{table(rows)}\n{machine()}, seed {a.seed}")
    return 1 if any(r["outcome"] in FAULTS for r in rows) else 0


if __name__ == "__main__":
    from benchmarks.damage import main as _main     # the module by its name: `Fault` is one class then
    sys.exit(_main())
