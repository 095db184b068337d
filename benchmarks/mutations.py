"""Would a test notice? `python -m benchmarks.mutations [--only N | ID ...] [--list] [--again] [--seed S] [--table FILE]`.

mutations.toml lists faults that somebody could make: a place in the package, what would stand there instead, the harm, and the
smallest set of tests that must notice it. Each is made in a copy of the project (the file of the package and the cell of the
notebook that it comes from), its tests are run, and the fault is taken back. A fault is noticed where one of them fails by an
assertion, or for the reason that the list states; an import that breaks notices nothing. Before that the tests are run without
any fault and must pass. A text that is not in its file exactly once is an error: the list is kept current (tests/test_mutations.py).

Slow, and resumable: what was found is kept in work/mutations.json and asked again only where the fault, its file or its tests have
changed. Every run is a process forked from one that has imported the heavy libraries, but nothing of catscans; Linux only."""
import argparse, ast, contextlib, hashlib, json, multiprocessing, os, platform, random, re, shutil, signal, subprocess, sys, tempfile, time, tomllib
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST, TABLE = ROOT/"benchmarks"/"mutations.toml", ROOT/"benchmarks"/"mutations_result.csv"
KEPT = ROOT/"work"/"mutations.json"
# why a fault is on the list
KINDS = dict(named="once passed every test, and was named", weak="was noticed only by the way",
             alike="of the kinds of the named ones", unread="chosen by who had read the package and none of its tests")
CELL = re.compile(r"^# %% (\S+\.ipynb) #(\w+)$", re.M)
# what an assertion raises: Python's and NumPy's, pytest's where nothing was raised
ASSERTS = ("AssertionError", "Failed")
# beside what the notebooks' processes share: pytest, its plugins, and what its files import
ALSO = ("pytest", "xdist.plugin", "execnet", "anyio.pytest_plugin", "nbformat", "jsonschema", "rfc3987_syntax", "isoduration", "execnb.shell",
        "PIL.Image", "sklearn.model_selection", "sklearn.metrics", "sklearn.decomposition", "sklearn.neighbors", "h5py")
LEAST, TIMES = 120, 10      # seconds a selection may take: at least, and in times of what it takes without a fault


@dataclass(frozen=True)
class Mutation:
    "A fault that somebody could make."
    id:str
    kind:str         # key of KINDS
    file:str         # below catscans/
    old:str          # stands in the file exactly once
    new:str          # what is put in its place
    tests:tuple      # notebooks below nbs/ and tests as pytest calls them: the smallest set that must notice it
    harm:str         # what would be wrong
    reason:str = ""  # pattern in what the failing test says; "": any assertion


def read(
    path=LIST,
)->list: # of Mutation
    "The list; a `ValueError` where an entry has other keys, a kind that is not known, or an id that is there twice."
    known, out = {f.name for f in fields(Mutation)}, []
    for m in tomllib.loads(Path(path).read_text())["mutation"]:
        if odd := set(m) - known: raise ValueError(f"{m.get('id')}: {', '.join(sorted(odd))} is no key of a mutation; they are {', '.join(sorted(known))}")
        m = Mutation(**m | dict(tests=tuple(m["tests"])))
        if m.kind not in KINDS: raise ValueError(f"{m.id}: received kind {m.kind!r}, allowed are {', '.join(KINDS)}")
        out.append(m)
    if twice := [k for k, n in Counter(m.id for m in out).items() if n > 1]: raise ValueError(f"{twice[0]} is there twice")
    return out


def place(
    m:Mutation,
    root=ROOT,
)->tuple: # file of the package, notebook, id of its cell
    "Where a fault is made; a `ValueError` where its text is not there exactly once."
    file = Path(root)/"catscans"/m.file
    if not file.exists(): raise ValueError(f"{m.id}: there is no catscans/{m.file}; name the file that holds {m.old!r} now")
    text = file.read_text()
    if (n := text.count(m.old)) != 1:
        raise ValueError(f"{m.id}: catscans/{m.file} holds its text {n} times, needed is once: {m.old!r}; the code has changed, so bring the list up to date")
    before = [c for c in CELL.finditer(text) if c.end() <= text.index(m.old)]
    if not before: raise ValueError(f"{m.id}: its text stands above the first cell of catscans/{m.file}")
    return file, (file.parent/before[-1][1]).resolve(), before[-1][2]


def problem(
    m:Mutation,
    root=ROOT,
)->str: # empty: none
    "What is out of date in an entry: its text, or a test that is not there."
    try: place(m, root)
    except ValueError as e: return str(e)
    if m.old == m.new: return f"{m.id}: it changes nothing"
    if not m.tests: return f"{m.id}: no test is named that must notice it"
    for t in m.tests:
        f, *names = t.split("::")
        if not (Path(root)/f).is_file(): return f"{m.id}: there is no {f}"
        text = (Path(root)/f).read_text()
        if names and not re.search(rf"^def {re.escape(names[0].split('[')[0])}\(", text, re.M): return f"{m.id}: {f} has no {names[0]}"
    return ""


# ---- one process

class _First:
    "a plugin of pytest: the first failure, in words"
    def __init__(self): self.got = None
    def pytest_exception_interact(self, node, call, report):
        if self.got: return
        crash = getattr(report.longrepr, "reprcrash", None)
        self.got = dict(where=node.nodeid, kind=type(call.excinfo.value).__name__, line=_source(call.excinfo), said=str(call.excinfo.value),
                        at=f"{Path(crash.path).name}:{crash.lineno}" if crash else "")

def _source(excinfo):
    "the line of the test that failed"
    of = [t for t in excinfo.traceback if f"{os.sep}tests{os.sep}" in str(t.path)] or list(excinfo.traceback)
    return str(of[-1].statement).strip()

def _quiet(said):
    "this process writes into a file, and ends what it starts when it ends"
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(said, "w") as f:
        for fd in (1, 2): os.dup2(f.fileno(), fd)

def _pytest(root, tests, said, answer, keep=False):
    "run tests in this process; keep: what Python compiles"
    _quiet(said)
    os.chdir(root)
    sys.dont_write_bytecode = not keep
    sys.path[:0] = [str(root), str(root/"tests")]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    import pytest
    first = _First()
    code = pytest.main(["-n", "0", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:randomly", *tests], plugins=[first])
    answer.write_text(json.dumps(dict(code=int(code)) | (first.got or {})))
    sys.stdout.flush()
    os._exit(0)

def _notebook(root, path, said, answer):
    "execute a notebook's cells in this process, as tests/test_modules.py does"
    _quiet(said)
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(root), str(root/"tests")]
    os.environ["PYTHONPATH"] = str(root)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    import processes
    processes.execute(root/path, said)

def _of_notebook(said, code):
    "the first failure of a notebook, from what its process said"
    text = said.read_text()
    if code == 0: return dict(code=0)
    head = re.search(r"^(\S+\.ipynb), cell (\d+): (\w+)$", text, re.M)
    if not head: return dict(code=1, where="", kind="died", line="", said=text[-300:])
    # the last frame of the cell, as Python's traceback shows it
    lines = re.findall(r"^-+> *\d+ (.*)$|^\s+File .*(?:ipython-input|Cell|\.ipynb).*\n\s+(.*)$", text, re.M)
    line = next((a or b for a, b in reversed(lines) if (a or b).strip()), "")
    last = [l for l in text.strip().splitlines() if l.strip()][-1]
    return dict(code=1, where=f"{head[1]} cell {head[2]}", kind=head[3], line=line.strip(), said=last)


# ---- a copy of the project

class Copy:
    "A copy of the project in which faults are made and taken back, one at a time."
    def __init__(self, folder):
        self.root, self.folder, self.base = Path(folder)/"project", Path(folder), Path(folder)/"work"
        names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        for n in names:
            if not (ROOT/n).is_file(): continue
            (self.root/n).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT/n, self.root/n)
        self.base.mkdir()
        subprocess.run([sys.executable, "-m", "compileall", "-q", self.root/"catscans"], check=True)
    def made(self, m):
        "make a fault in the package and in its notebook; gives what takes it back"
        file, book, cell = place(m, self.root)
        was, nb = file.read_text(), book.read_text()
        cells = json.loads(nb)
        [at] = [c for c in cells["cells"] if c.get("id", "").startswith(cell)]
        source = "".join(at["source"])
        if source.count(m.old) != 1: raise ValueError(f"{m.id}: cell {cell} of {book.name} holds its text {source.count(m.old)} times; run nbdev-export")
        at["source"] = source.replace(m.old, m.new).splitlines(keepends=True)
        file.write_text(was.replace(m.old, m.new))
        book.write_text(json.dumps(cells))
        # a file of the same size and second would pass for the one that is compiled
        for f in (file.parent/"__pycache__").glob(f"{file.stem}.*.pyc"): f.unlink()
        def back():
            file.write_text(was)
            book.write_text(nb)
        return back
    def work(self, keep=False):
        "a work folder that begins with what the tests made without a fault, by links"
        here = self.root/"work"
        if keep:
            shutil.rmtree(self.base, ignore_errors=True)
            return here.rename(self.base) if here.exists() else self.base.mkdir()
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(self.base, here, copy_function=os.link)
    def run(self, tests, limit, keep=False):
        "dict(code, where, kind, line, said, seconds) of one selection: a notebook, or tests of pytest"
        said, answer, start = self.folder/"said.txt", self.folder/"answer.json", time.monotonic()
        for f in (said, answer): f.unlink(missing_ok=True)
        book = len(tests) == 1 and tests[0].endswith(".ipynb")
        p = multiprocessing.get_context("fork").Process(target=_notebook if book else _pytest, args=(self.root, tests[0], said, answer) if book else (self.root, tests, said, answer, keep))
        p.start()
        try:
            p.join(limit)
            late = p.is_alive()
        finally:
            for end in (os.killpg, os.kill):               # and whatever it has left
                try: end(p.pid, signal.SIGKILL)
                except ProcessLookupError: pass
            p.join()
        took = dict(seconds=round(time.monotonic() - start, 1))
        if late: return dict(code=1, where=" ".join(tests), kind="late", line="", said=f"not done in {limit:.0f} s") | took
        if book: return _of_notebook(said, p.exitcode) | took
        if answer.exists(): return dict(where="", kind="", line="", said="") | json.loads(answer.read_text()) | took
        return dict(code=1, where="", kind="died", line="", said=said.read_text()[-300:] if said.exists() else "") | took


class Broken(Exception): "Tests that fail without any fault."


# ---- all of them

@dataclass(frozen=True)
class Row:
    "What became of a fault."
    id:str
    kind:str
    file:str
    outcome:str      # noticed; survived; otherwise: it failed, and not for the reason that counts; broken: its tests fail without it
    by:str           # the test that noticed it
    line:str         # the line that failed
    said:str
    seconds:float
    harm:str

def parts(
    tests, # of a mutation
)->list: # of selections that one process runs
    "Each notebook by itself, tests of pytest together."
    return [[t] for t in tests if t.endswith(".ipynb")] + ([list(q)] if (q := [t for t in tests if not t.endswith(".ipynb")]) else [])

def noticed(m, got):
    "whether a failure is an assertion's, or has the reason that is stated"
    if m.reason: return re.search(m.reason, f"{got['where']}\n{got['kind']}: {got['said']}\n{got['line']}") is not None
    return got["kind"] in ASSERTS

def tried(copy, m, limits):
    "a Row"
    out, spent = Row(m.id, m.kind, m.file, "survived", "", "", "", 0., m.harm), 0.
    try: allowed = [limit(copy, tests, limits) for tests in parts(m.tests)]
    except Broken as e: return Row(**asdict(out) | dict(outcome="broken", said=str(e)[:160]))
    back = copy.made(m)
    try:
        for tests, seconds in zip(parts(m.tests), allowed):
            copy.work()
            got = copy.run(tests, seconds)
            spent += got["seconds"]
            if not got["code"]: continue
            short = lambda s, n: " ".join(str(s).split())[:n]
            out = Row(m.id, m.kind, m.file, "noticed" if noticed(m, got) else "otherwise", got["where"], short(got["line"], 160),
                      short(f"{got['kind']}: {got['said']}", 160), 0., m.harm)
            if out.outcome == "noticed": break
    finally: back()
    return Row(**asdict(out) | dict(seconds=round(spent, 1)))

def _of_test(text, name):
    "a test, and all in its file that is none: what it may use"
    other = lambda n: isinstance(n, ast.FunctionDef) and n.name.startswith("test_") and n.name != name
    return [ast.dump(n) for n in ast.parse(text).body if not other(n)]

def key(m, root=ROOT):
    "what a result depends on: the fault, its file, its tests"
    h = hashlib.sha256(repr(m).encode() + (Path(root)/"catscans"/m.file).read_bytes())
    for t in m.tests:
        f, *name = t.split("::")
        text = (Path(root)/f).read_text()
        h.update("".join(_of_test(text, name[0].split("[")[0]) if name else text).encode())
    return h.hexdigest()[:16]

def summary(rows):
    n = Counter(r.outcome for r in rows)
    return f"{n['noticed']} of {len(rows)} noticed ({100*n['noticed']/max(len(rows), 1):.1f} %), {n['survived']} survived, {n['otherwise']} failed otherwise" + (f", of {n['broken']} the tests fail without them" if n["broken"] else "")

def commit():
    git = lambda *a: subprocess.run(["git", *a], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short=12", "HEAD") + (" and changes" if git("status", "--porcelain", "-uno", "--", "catscans", "nbs", "tests") else "")

def write(rows, path):
    "the table, and above it what it is of"
    import csv
    with open(path, "w", newline="") as f:
        f.write(f"# {summary(rows)}; commit {commit()}; Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; {time.strftime('%Y-%m-%d')}\n")
        w = csv.DictWriter(f, [c.name for c in fields(Row)], lineterminator="\n")
        w.writeheader()
        for r in rows: w.writerow(asdict(r))

def limit(copy, tests, limits):
    "seconds that a selection may take, from what it takes without a fault; `Broken` where it fails then"
    key = tuple(tests)
    if key not in limits:
        copy.work()
        got = copy.run(tests, 900)
        if got["code"]: limits[key] = Broken(f"{got['where'] or ' '.join(tests)}: {got['kind']}: {got['said']}")
        else:
            limits[key] = max(LEAST, TIMES*got["seconds"])
            copy.work(keep=True)
    if isinstance(limits[key], Broken): raise limits[key]
    return limits[key]

def together(copy, todo, limits):
    """All tests of pytest without a fault, asked in one process, which leaves them compiled; where one does not pass, they are asked one
    by one when their turn comes."""
    q = list(dict.fromkeys(tuple(p) for m in todo for p in parts(m.tests) if "::" in p[0]))
    if not q: return
    copy.work()
    got = copy.run(list(dict.fromkeys(t for p in q for t in p)), 1800, keep=True)
    print(f"{len(q)} selections of tests without a fault: {'all pass' if not got['code'] else got['where']}, {got['seconds']} s", flush=True)
    if got["code"]: return
    limits |= dict.fromkeys(q, max(LEAST, TIMES*got["seconds"]/len(q)))
    copy.work(keep=True)

def preload():
    "import what is heavy and not catscans: every run is forked from here"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")          # what catscans asks for before it imports TensorFlow
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import importlib
    sys.path.insert(0, str(ROOT/"tests"))
    import processes
    for name in (*processes.HEAVY, *ALSO):
        with contextlib.suppress(ImportError): importlib.import_module(name)
    sys.path.remove(str(ROOT/"tests"))
    del sys.modules["processes"]
    assert not any(m.split(".")[0] == "catscans" for m in sys.modules), "a fork would keep what was imported before the fault"

def chosen(all_, only, seed):
    "all, a seeded sample of so many, or those named; `SystemExit` for a name that is none"
    if not only: return all_
    if len(only) == 1 and only[0].isdecimal(): return sorted(random.Random(seed).sample(all_, min(int(only[0]), len(all_))), key=all_.index)
    if odd := [i for i in only if i not in {m.id for m in all_}]: raise SystemExit(f"{odd[0]} is no mutation; --list names them")
    return [m for m in all_ if m.id in only]

def main(argv=None)->int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.mutations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", default=[], help="a seeded sample of so many, or ids")
    p.add_argument("--list", action="store_true", help="the faults, nothing is run")
    p.add_argument("--again", action="store_true", help="also what is known already")
    p.add_argument("--seed", type=int, default=1, help="of the sample")
    p.add_argument("--table", type=Path, default=None, help=f"where the table goes; default, where all are asked for: {TABLE.relative_to(ROOT)}")
    a = p.parse_args(argv)
    all_ = read()
    if wrong := [w for m in all_ if (w := problem(m))]: raise SystemExit("\n".join(wrong))
    todo = chosen(all_, a.only, a.seed)
    if a.list:
        for m in todo: print(f"{m.kind:7}{m.id:36}{m.file:28}{m.harm}")
        return 0
    known = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    rows = {m.id: Row(**known[m.id]["row"]) for m in todo if not a.again and known.get(m.id, {}).get("key") == key(m)}
    if left := [m for m in todo if m.id not in rows]:
        left.sort(key=lambda m: known.get(m.id, {}).get("row", {}).get("outcome") == "noticed")      # what was missed before comes first
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))      # the copy is removed, and what runs in it ended
        preload()
        with tempfile.TemporaryDirectory(prefix="catscans-mutations-") as d:
            copy, limits = Copy(d), {}
            together(copy, left, limits)
            for i, m in enumerate(left, 1):
                rows[m.id] = r = tried(copy, m, limits)
                if r.outcome != "broken": known[m.id] = dict(key=key(m, copy.root), row=asdict(r))
                KEPT.parent.mkdir(exist_ok=True)
                (half := KEPT.with_suffix(".part")).write_text(json.dumps(known, indent=1))
                half.replace(KEPT)
                print(f"{i}/{len(left)}  {r.outcome:10}{r.seconds:6.1f} s  {r.id}  {r.by}", flush=True)
    done = [rows[m.id] for m in todo]
    for r in done:
        if r.outcome != "noticed": print(f"{r.outcome}: {r.id} ({r.file}): {r.harm}" + (f"; {r.by}: {r.said}" if r.said else ""))
    print(summary(done))
    if table := a.table or (None if a.only else TABLE): write(done, table)
    return int(any(r.outcome != "noticed" for r in done))

if __name__ == "__main__": sys.exit(main())
