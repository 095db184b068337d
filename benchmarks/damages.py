"The trials of `benchmarks.damage`: a kind, a fault in words, and a function of the benchmark and its random numbers that gives outcome and words."
import contextlib, functools, gzip, hashlib, http.server, io, json, os, resource, shutil, signal, stat, struct, subprocess, sys, tarfile, tempfile, threading, time, zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.damage import PRE, ROOT, SMALL, TUNE, Fault, after, command, ends_well, one_line, refused, same_as, state, untouched

# ---- ways to damage a file: (path, random numbers) -> None


def cut(share): return lambda f, rng: f.write_bytes((b := f.read_bytes())[:int(len(b)*share)])


def flip(f, rng):
    b = bytearray(f.read_bytes())
    b[rng.randrange(len(b))] ^= 1 << rng.randrange(8)
    f.write_bytes(b)


def zeros(f, rng):
    b = bytearray(f.read_bytes())
    n = min(2000, len(b)//2)
    at = rng.randrange(len(b) - n)
    b[at:at + n] = bytes(n)
    f.write_bytes(b)


def noise(f, rng): f.write_bytes(rng.randbytes(len(f.read_bytes())))
def gone(f, rng): f.unlink()
def longer(f, rng): f.write_bytes(f.read_bytes() + rng.randbytes(500))


def folder(f, rng):
    f.unlink()
    f.mkdir()


def dangling(f, rng):
    f.unlink()
    f.symlink_to("nowhere")


WAYS = {"missing": gone, "of no bytes": cut(0), "cut to a third": cut(.33), "without its last byte": lambda f, rng: f.write_bytes(f.read_bytes()[:-1]), "with one bit changed": flip,
        "with another bit changed": flip, "zeroed in parts": zeros, "random bytes": noise, "with bytes after its end": longer, "a folder": folder, "a link to nothing": dangling}


def undoing(path):
    "takes a damage away: what was there before"
    old = path.read_bytes()
    def undo():
        if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
        if path.is_symlink(): path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(old)
    return undo


def damaged(find, way, like=None):
    "a file of a finished project, or of one that was stopped halfway, damaged in one way"
    def do(bench, rng):
        place = bench.half(like) if like else bench.place()
        path = find(place)
        undo = undoing(path)
        way(path, rng)
        return after(place, bench.want, path, undo)
    return do


# ---- records

def changed(rec, **more): return rec | more


def rewritten(path, change, seal=True):
    "a record with something changed, with a checksum that fits or the old one"
    from catscans.records.store import checksum
    rec = change(json.loads(path.read_text()))
    if seal and "checksum" in rec: rec["checksum"] = checksum(rec)
    path.write_text(json.dumps(rec, indent=1))


def without(*keys): return lambda r: {k: v for k, v in r.items() if k not in keys}


def otherwise(r):
    r["settings"] = r["settings"] | dict(size=48)
    return r


def metrics_up(r):
    r["metrics"] = r["metrics"] | dict(auc_ovr_weighted_mean=.99)
    return r


def all_better(r):
    "a forger: folds and metrics agree, the predictions do not"
    for f in r["folds"]: f["auc_ovr_weighted"] = .99
    return metrics_up(r)


def from_other_weights(r):
    r["settings"] = r["settings"] | dict(source_weights_sha256="0"*64)
    return r


CONTENTS = {"a stump": (lambda r: dict(slug=r["slug"]), False), "an empty object": (lambda r: {}, False), "a list": (lambda r: [r], False), "a number": (lambda r: 7, False), "null": (lambda r: None, False),
            "of other settings, with a fitting checksum": (otherwise, True), "with another number in it": (metrics_up, False), "of another schema": (lambda r: changed(r, schema=2), True),
            "without its checksum, a number changed": (lambda r: without("checksum")(all_better(r)), False), "without folds": (lambda r: changed(r, folds=[]), True),
            "of another run": (lambda r: changed(r, slug="finetune-toy-dtd--toy-isic2018-grouped-s1", target="toy-isic2018"), True), "without predictions": (without("predictions"), True),
            "from other weights of the source": (from_other_weights, True), "with NaN": (lambda r: changed(r, timing=dict(r["timing"], wall_s=float("nan"))), False),
            "with text for its folds": (lambda r: changed(r, folds="five"), True)}


def record_content(slug, change, seal):
    def do(bench, rng):
        place = bench.place()
        path = place.record(slug)
        undo = undoing(path)
        rewritten(path, change, seal)
        return after(place, bench.want, path, undo)
    return do


def swapped(first, second):
    def do(bench, rng):
        place = bench.place()
        a, b = first(place), second(place)
        x, y = a.read_bytes(), b.read_bytes()
        a.write_bytes(y)
        b.write_bytes(x)
        return after(place, bench.want, a, lambda: (a.write_bytes(x), b.write_bytes(y)))
    return do


def to_be_read(way):
    "weights are damaged and about to be read: their fine-tuning is missing"
    def do(bench, rng):
        place = bench.place()
        place.record(TUNE).unlink()
        undo = undoing(place.weights)
        way(place.weights, rng)
        return after(place, bench.want, place.weights, undo)
    return do


def other_weights(f, rng):
    "whole, but of another training"
    from catscans.models.weights import load_weights, save_weights
    w = load_weights(f)
    save_weights({k: v + 1e-3 for k, v in w.items()}, f)


# ---- image stores

def stored(name, way):
    "a file of a store is damaged; whoever is about to train must not see other images"
    def do(bench, rng):
        place = bench.place()
        seen = lambda got: [l for l in got.text.splitlines() if l.startswith("SEEN")]
        content = lambda: path.read_bytes() if path.is_file() else None
        want, path = place.load(), place.store()/name
        whole = content()
        way(path, rng)
        checked, got = place.check(), place.load()
        one_line(checked)
        said = one_line(got)
        if got.code: return "refused", refused(got, place.store().name)
        if seen(got) != seen(want): raise Fault("WRONG", "other images under the fingerprint of the old ones")
        if content() == whole: return "mended", next((l for l in got.text.splitlines() if "note:" in l), said)
        if checked.code == 1 and place.store().name in checked.text: return "named", next(l for l in checked.text.splitlines() if place.store().name in l)
        raise Fault("WRONG", "nothing finds it")
    return do


def many_bytes(f, rng):
    "2,000 bytes of the pixels"
    b = bytearray(f.read_bytes())
    for i in (rng.randrange(200, len(b)) for _ in range(2000)): b[i] ^= 255
    f.write_bytes(b)


def other_labels(f, rng):
    y = np.load(f)
    np.save(f, y[::-1].copy())


# ---- kills

def killed(slugs, how=signal.SIGKILL, twice=False):
    "a run that has these records to make is ended at a random moment, and given again; where it had ended by then, sooner"
    def begin(place):
        for s in slugs: place.record(s).unlink(missing_ok=True)
        if PRE in slugs: place.weights.unlink(missing_ok=True)
        return state(place)
    def do(bench, rng):
        place = bench.place()
        before, after_, ended = begin(place), rng.uniform(.1, bench.seconds*len(slugs)/2), 0
        while ended < 1 + twice:
            got = place.run(after=after_, how=how)
            untouched(place, before, ())
            one_line(place.check())
            after_ = rng.uniform(.1, after_)
            if got.killed: ended += 1
            elif not ended: before = begin(place)
            else: break
        ends_well(place, bench.want)
        return "mended", f"killed after {got.seconds:.1f} s"
    return do


def store_build(bench, rng):
    "1,500 images of a folder are decoded; the process is killed; the next one goes on"
    place, images = bench.place(), _pictures(bench)
    def build():
        from catscans.datasets.own import from_folder
        x = from_folder(images, size=96)
        print("SEEN", hashlib.sha256(bytes(memoryview(x.x).cast("B")) + x.y.tobytes()).hexdigest(), x.fingerprint)
    whole = bench.place()
    want = whole.call(build)
    got = place.call(build, after=rng.uniform(.05, want.seconds))
    again = place.call(build)
    one_line(again)
    last = lambda g: [l for l in g.text.splitlines() if l.startswith("SEEN")]
    if again.code or last(again) != last(want): raise Fault("WRONG", "the store of a killed build differs")
    left = [f.name for f in (place.work/"stores").iterdir() if "-part" in f.name]
    if left: raise Fault("WRONG", f"left behind: {left[0]}")
    checked = place.check()
    if place.folder.name and checked.code: raise Fault("WRONG", one_line(checked))
    return "mended", "killed" if got.killed else "it had ended before"


def _pictures(bench, n=1500):
    from PIL import Image
    at = bench.folder/"pictures"
    if at.exists(): return at
    r = np.random.default_rng(0)
    for i in range(n):
        f = at/("ab"[i % 2])/f"{i:04}.png"
        f.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(r.integers(0, 255, (24, 24, 3), np.uint8)).save(f, compress_level=1)
    return at


@contextlib.contextmanager
def server(body, pause=.002):
    "serves one file slowly, from any byte on"
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-") or 0)
            self.send_response(206 if first else 200)
            self.send_header("ETag", '"one"')
            if first: self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - first))
            self.end_headers()
            with contextlib.suppress(OSError):
                for i in range(first, len(body), 65536):
                    self.wfile.write(body[i:i + 65536])
                    time.sleep(pause)
        def log_message(self, *_): pass
    http_ = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_.serve_forever, args=(.01,), daemon=True).start()
    try: yield f"http://127.0.0.1:{http_.server_port}/a.zip"
    finally:
        http_.shutdown()
        http_.server_close()


def data_get(bench, rng):
    "a set is fetched from a server on this machine and unpacked; killed; the next one goes on"
    place, z = bench.place(), io.BytesIO()
    r = np.random.default_rng(1)
    with zipfile.ZipFile(z, "w") as f:
        for i in range(400): f.writestr(f"set/{'ab'[i % 2]}/{i}.bin", r.bytes(20_000))
    body = z.getvalue()
    file = SimpleNamespace(name="a.zip", bytes=len(body), md5="", sha256=hashlib.sha256(body).hexdigest(), login=False, note="", member=False)
    (place.folder/"data").mkdir()
    tree = lambda: {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted((place.folder/"data").rglob("*.bin"))}
    with server(body) as url:
        def get():
            from catscans.datasets import fetch
            file.urls = (url,)
            fetch.get(SimpleNamespace(name="local", files=[file], licence="none", url="", fetch=""), progress=False)
        env = dict(CATSCANS_DATA=str(place.folder/"data"))
        got = place.call(get, env, after=rng.uniform(.02, 1.2))
        again = place.call(get, env)
    one_line(again)
    if again.code: raise Fault("LOST", one_line(again))
    with zipfile.ZipFile(io.BytesIO(body)) as f: want = {Path(n).name: hashlib.sha256(f.read(n)).hexdigest() for n in f.namelist()}
    if tree() != want: raise Fault("WRONG", "other files than the archive holds")
    left = [f.name for f in (place.folder/"data").rglob(".*")]
    if left: raise Fault("WRONG", f"left behind: {left[0]}")
    return "mended", "killed" if got.killed else "it had ended before"


def results_write(bench, rng):
    "figures of a project are drawn anew; killed; the next run has the old ones or the new ones, never halves"
    place = bench.place()
    at = place.folder/"figures"/"toy"
    at.mkdir(parents=True)
    for i in range(40): (at/f"fig{i}.csv").write_text(f"old {i}\n"*3000)
    def draw():
        from catscans.core.files import atomic
        from catscans.study import engine, notebooks, plan
        steps = [s for s in plan.plan("toy") if s.notebook == "results"]
        def all_of(state):
            for i in range(40):
                with atomic(at/f"fig{i}.csv") as tmp: tmp.write_text(f"new {i}\n"*3000)
            notebooks._sign(steps[0])
            notebooks._mark(steps[0], "done")
        engine._settle_figures("toy", steps)
        with engine._whole_figures("toy", steps): all_of("done")
    def settle():
        from catscans.study import engine, plan
        engine._settle_figures("toy", plan.plan("toy"))
    took = place.call(draw, after=rng.uniform(.0, .25))
    one_line(place.call(settle))
    words = {f.read_text().split()[0] for f in at.glob("*.csv")}
    if len(list(at.glob("*.csv"))) != 40: raise Fault("LOST", f"{len(list(at.glob('*.csv')))} of 40 figures are there")
    if len(words) != 1: raise Fault("WRONG", "some figures are new and some are old")
    return "mended", f"the {words.pop()} ones are there; {'killed' if took.killed else 'it had ended before'}"


# ---- want: of room, of memory, of rights

def limited(what, value, slugs):
    "a run under a limit of the system; afterwards without"
    def do(bench, rng):
        place = bench.place()
        for s in slugs: place.record(s).unlink()
        if PRE in slugs: place.weights.unlink()
        before = state(place)
        def limit():
            n = value if what != resource.RLIMIT_AS else value + _size()
            if what == resource.RLIMIT_FSIZE: signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(what, (n, n))
        got = place.run(before=limit)
        untouched(place, before, ())
        if got.code == 0:
            same_as(place, bench.want)
            return "no effect", "it sufficed"
        said = refused(got, "MiB", "room", "memory", "too large", "Too many open files", "killed")
        ends_well(place, bench.want)
        return "refused", said
    return do


def _size(): return int(Path("/proc/self/statm").read_text().split()[0])*resource.getpagesize()


def full_disk(what, kib, slugs):
    "a folder of the project lies on a small disk, and that becomes full"
    def do(bench, rng):
        place = bench.place()
        for s in slugs: place.record(s).unlink()
        if PRE in slugs: place.weights.unlink()
        at, aside = place.folder/what, place.folder/"aside"
        at.mkdir(parents=True, exist_ok=True)
        shutil.copytree(at, aside)
        size = sum(f.stat().st_size for f in aside.rglob("*") if f.is_file())//1024
        blocks = sum(-(-f.stat().st_size//4096)*4 for f in aside.rglob("*") if f.is_file()) + 4*sum(1 for _ in aside.rglob("*"))
        mount = lambda n: subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={n}k", "tmpfs", str(at)], check=True)
        before = state(place)
        mount(max(size, blocks) + kib)
        try:
            shutil.copytree(aside, at, dirs_exist_ok=True)
            got = place.run()
            if got.code == 0:
                same_as(place, bench.want)
                return "no effect", "it sufficed"
            said = refused(got, "room", "No space", "MiB")
            untouched(place, before, ())
            subprocess.run(["mount", "-o", "remount,size=200m", str(at)], check=True)
            ends_well(place, bench.want)
            return "refused", said
        finally: subprocess.run(["umount", "-l", str(at)])
    return do


def as_nobody(): # an ordinary user
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    os.environ["HOME"] = "/nonexistent"


def owned(place):
    "the project belongs to an ordinary user"
    for f in (place.folder, *place.folder.rglob("*")): os.chown(f, 65534, 65534, follow_symlinks=False)


def not_allowed(find, mode, slugs=(), needs=True):
    "a file or folder of an ordinary user's project may not be read, or not be written"
    def do(bench, rng):
        place = bench.place()
        for s in slugs: place.record(s).unlink()
        path = find(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        owned(place)
        before, old = state(place), stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        try:
            looked = place.check(before=as_nobody)
            one_line(looked)
            asked = place.call(command("status", "--profile", "toy"), before=as_nobody)
            one_line(asked)
            got = place.run(before=as_nobody)
            said = one_line(got)
        finally: path.chmod(old) if path.exists() else None
        if got.code == 0:
            same_as(place, bench.want)
            return "no effect" if "nothing to do" in got.text else "mended", said
        refused(got, path.name, path.parent.name)
        untouched(place, before, ())
        ends_well(place, bench.want, before=as_nobody)
        return "refused", said
    return do


def foreign_user(bench, rng):
    "an ordinary user runs in the project of somebody else"
    place = bench.place()
    place.record(TUNE).unlink()
    got = place.run(before=as_nobody)
    said = refused(got, str(place.folder))
    ends_well(place, bench.want)
    return "refused", said


def others_finished(bench, rng):
    "an ordinary user looks at the finished project of somebody else"
    place = bench.place()
    for args in (["status", "--profile", "toy"], ["check", "--profile", "toy"], ["run", *SMALL]):
        got = place.call(command(*args), before=as_nobody)
        said = one_line(got)
        if args[0] == "run" and got.code: return "refused", refused(got, str(place.folder))
    same_as(place, bench.want)
    return "no effect", said


# ---- two projects, clocks, what lies about

def shared_results(slugs, keep_weights, at_once):
    "two projects whose results are one folder, their work two"
    def do(bench, rng):
        a, b = bench.place(), bench.place()
        shutil.rmtree(b.folder/"results")
        (b.folder/"results").symlink_to(a.folder/"results")
        for s in slugs: a.record(s).unlink()
        if not keep_weights: b.weights.unlink()
        if at_once:
            pid = os.fork()
            if not pid:
                got = a.run()
                os._exit(got.code)
            ran = b.run()
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if code: raise Fault("LOST", f"the first of the two ended with {code}")
        else: ran = b.run()
        said = one_line(ran)
        if ran.code: raise Fault("LOST", said)
        for p in (a, b):
            same_as(p, bench.want)
            one_line(looked := p.check())
            if looked.code: raise Fault("WRONG", f"check: {one_line(looked)}")
        return "mended", said
    return do


def dated(seconds, slugs=(TUNE,)):
    "everything bears a date so many seconds from now, as after a clock was set"
    def do(bench, rng):
        place = bench.place()
        for s in slugs: place.record(s).unlink()
        t = time.time() + seconds if abs(seconds) < 1e9 else 0
        for f in place.folder.rglob("*"): os.utime(f, (t, t), follow_symlinks=False)
        ends_well(place, bench.want)
        return "mended" if slugs else "no effect", ""
    return do


def lying_about(name, content, slugs=(TUNE,)):
    "something else stands where the study keeps its notes"
    def do(bench, rng):
        place = bench.place()
        for s in slugs: place.record(s).unlink()
        path = place.work/"toy"/name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if callable(content): content(path)
        elif content is None: path.mkdir()
        else: path.write_bytes(content)
        for args in (["status", "--profile", "toy"], ["check", "--profile", "toy"]): one_line(place.call(command(*args)))
        got = place.run()
        said = one_line(got)
        if got.code == 0:
            same_as(place, bench.want)
            return ("mended" if slugs else "no effect"), ""
        said = refused(got, path.name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        ends_well(place, bench.want)
        return "refused", said
    return do


def settings(names, slugs=(TUNE,), **env):
    "a setting that cannot be, or may be"
    def do(bench, rng):
        place = bench.place()
        for s in slugs: place.record(s).unlink()
        before = state(place)
        got = place.run() if not env else place.call(command("run", *SMALL), env)
        said = one_line(got)
        if got.code == 0:
            same_as(place, bench.want)
            return "mended", said
        refused(got, *names)
        untouched(place, before, ())
        ends_well(place, bench.want)
        return "refused", said
    return do


# ---- hostile files of others

def answered(make, ask, *names, good=None):
    "a hostile file is given to a command or function, which must refuse it in a line and write nothing outside"
    def do(bench, rng):
        place = bench.place()
        box = place.folder/"box"
        box.mkdir()
        path = make(box, rng) or box
        outside = lambda: {f for f in bench.folder.rglob("*") if not {box, place.work} & {f, *f.parents}}
        seen = outside()
        got = place.call(lambda: ask(path), dict(CATSCANS_DATA=str(box)))
        said = one_line(got)
        if new := outside() - seen: raise Fault("WRONG", f"written outside: {sorted(new)[0]}")
        if (place.folder/"ran").exists(): raise Fault("WRONG", "code of the file was run")
        if got.code == 0:
            if good is None: raise Fault("WRONG", f"taken as if it were whole: {said}")
            return "no effect", good
        return "refused", refused(got, *(names or (path.name,)))
    return do


def add(path): return command("data", "add", str(path), "--name", "new")()
def doctor(path): return command("data", "doctor", str(path))()


def png(seed=0, side=16):
    from PIL import Image
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)).save(b := io.BytesIO(), "png")
    return b.getvalue()


def zip_of(members, name="pets.zip"):
    def make(box, rng):
        with zipfile.ZipFile(box/name, "w") as z:
            for i in range(6): z.writestr(f"{'cat' if i % 2 else 'dog'}/{i}.png", png(i))
            for n, b in members.items(): z.writestr(n, b)
        return box/name
    return make


def zip_link(box, rng):
    path = zip_of({})(box, rng)
    i = zipfile.ZipInfo("cat/link.png")
    i.create_system, i.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as z: z.writestr(i, "/etc/passwd")
    return path


def bomb(box, rng):
    path = box/"pets.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(6): z.writestr(f"{'cat' if i % 2 else 'dog'}/{i}.png", png(i))
        z.writestr("cat/bomb.png", bytes(300 << 20))
    return path


def huge_png(box, rng):
    import zlib
    ihdr = b"IHDR" + struct.pack(">II", 60_000, 60_000) + bytes([8, 2, 0, 0, 0])
    for i in range(6):
        f = box/"pets"/("cat" if i % 2 else "dog")/f"{i}.png"
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_bytes(png(i))
    (box/"pets"/"cat"/"huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + b"\0\0\0\0IEND\xaeB`\x82")
    return box/"pets"


def tar_of(**how):
    def make(box, rng):
        with tarfile.open(box/"pets.tar.gz", "w:gz") as t:
            for i in range(6): t.addfile(_member(f"{'cat' if i % 2 else 'dog'}/{i}.png", b := png(i)), io.BytesIO(b))
            t.addfile(_member(how.pop("name", "cat/x.png"), b"", **how))
        return box/"pets.tar.gz"
    return make


def _member(name, b, **how):
    i = tarfile.TarInfo(name)
    i.size = len(b)
    for k, v in how.items(): setattr(i, k, v)
    return i


def table(*rows, head="path,class"):
    def make(box, rng):
        for i in range(6):
            f = box/("cat" if i % 2 else "dog")/f"{i}.png"
            f.parent.mkdir(exist_ok=True)
            f.write_bytes(png(i))
        (box/"labels.csv").write_text("\n".join([head, *(f"{'cat' if i % 2 else 'dog'}/{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(6)), *rows]))
        return box/"labels.csv"
    return make


class Evil:
    def __reduce__(self): return os.system, ("touch ran",)


def pickled(box, rng):
    np.savez(box/"pets.npz", train_images=np.zeros((6, 8, 8, 3), "uint8"), train_labels=np.array([Evil()]*6, object))
    return box/"pets.npz"


def lambda_keras(box, rng):
    "a network with a layer of code: Keras must not run it"
    import keras
    i = keras.Input((32, 32, 3))
    keras.Model(i, keras.layers.Lambda(lambda x: __import__("os").system("touch ran") or x)(i)).save(box/"net.keras")
    Path("ran").unlink(missing_ok=True)     # making it has run it, here; what counts is the folder of the trial
    return box/"net.keras"


def probe(path):
    from catscans.core.basics import UserError
    from catscans.models.probes import load_probe
    try: load_probe(path, 32)
    except UserError as e:
        print(f"catscans: error: {' '.join(str(e).split())}", file=sys.stderr)
        return 2


def h5_probe(change):
    "weights of ResNet50's first stage, with something odd"
    def make(box, rng):
        import h5py
        with h5py.File(box/"net.h5", "w") as f:
            g = f.create_group("conv2_block3_3_conv")
            g["kernel"] = np.zeros((1, 1, 64, 256), "float32")
            change(f)
        return box/"net.h5"
    return make


def _odd_type(f): f.create_dataset("conv1_conv/kernel", data=np.array([b"a"]*3, "S1"))
def _text(f): f.create_dataset("conv1_conv/kernel", data="weights")
def _compound(f): f.create_dataset("conv1_conv/kernel", data=np.zeros(3, [("a", "f4"), ("b", "i8")]))
def _huge(f): f.create_dataset("conv1_conv/kernel", shape=(1 << 22, 1 << 20), dtype="f8", chunks=(1, 1024))
def _reference(f): f.create_dataset("conv1_conv/kernel", data=f["conv2_block3_3_conv"].ref, dtype=__import__("h5py").ref_dtype)
def _empty(f):
    import h5py
    f.create_dataset("conv1_conv/kernel", data=h5py.Empty("f4"))
def _names(f): f.attrs["layer_names"] = np.arange(3)
def _names_of_nothing(f): f.attrs["layer_names"] = [b"conv1_conv", b"no such layer"]
def _dataset_as_layer(f):
    f["conv9"] = np.zeros(3)
    f.attrs["layer_names"] = [b"conv9"]
def _names_a_number(f): f.attrs["layer_names"] = 7
def _external(f):
    import h5py
    f["conv1_conv"] = h5py.ExternalLink("/etc/passwd", "/x")
def _cycle(f): f["conv2_block3_3_conv/again"] = f["conv2_block3_3_conv"]


def bytes_of(name, b):
    def make(box, rng):
        (box/name).write_bytes(b(rng) if callable(b) else b)
        return box/name
    return make


def unpack(path):
    from catscans.slices.run import main
    return main(["unpack", str(path)])


def slice_of(path):
    from catscans.slices.run import main
    return main(["--data", str(path), "--out", str(path.parent/"out"), "--minutes", "1"])


def parcel(about=None, members=None, whole=True):
    def make(box, rng):
        members_ = {k: gzip.compress(json.dumps(v).encode()) for k, v in (members or {}).items()}
        said = dict(format=1, profile="toy", records={k: hashlib.sha256(v).hexdigest() for k, v in members_.items()}) | (about or {})
        with zipfile.ZipFile(box/"records.zip", "w") as z:
            z.writestr("about.json", json.dumps(said))
            for k, v in members_.items(): z.writestr(k, v)
        return box/"records.zip"
    return make


def request(**r):
    def make(box, rng):
        (box/"in").mkdir()
        (box/"in"/"request.json").write_text(json.dumps(r))
        return box/"in"
    return make


UP = "../../../../outside"
RUN = dict(source="toy-dtd", target="toy-chest", profile="toy", protocol="grouped", seed=1)

HOSTILE = {
    "a zip that names ../": answered(zip_of({"../../out.png": png()}), add), "a zip with an absolute name": answered(zip_of({"/tmp/out.png": png()}), add), "a zip with a link": answered(zip_link, add),
    "a zip with a Windows path": answered(zip_of({"C:\\x.png": png()}), add), "a zip that unpacks to 300 MB of zeros": answered(bomb, add, "bomb.png", "pets.zip"), "a zip in which a name is a NUL": answered(zip_of({"cat/a\0b.png": b"x"}), add, "pets.zip", good="read up to the NUL: no image"),
    "a zip with an image of text": answered(zip_of({"cat/x.png": b"<html>"}), add, "x.png"), "an image of 60,000 x 60,000 pixels": answered(huge_png, add, "huge.png"),
    "a tar with a link": answered(tar_of(type=tarfile.SYMTYPE, linkname="/etc/passwd"), add), "a tar with a hard link": answered(tar_of(type=tarfile.LNKTYPE, linkname="../../x"), add),
    "a tar with a device": answered(tar_of(type=tarfile.CHRTYPE), add), "a tar with a pipe": answered(tar_of(type=tarfile.FIFOTYPE), add), "a tar that names ../": answered(tar_of(name="../../out.png"), add),
    "a CSV that names ../": answered(table("../../x.png,cat"), add), "a CSV with an absolute path": answered(table("/etc/passwd,cat"), add, "/etc/passwd"), "a CSV with a home folder": answered(table("~/x.png,cat"), add),
    "a CSV with a url": answered(table("http://127.0.0.1/x.png,cat"), add), "a CSV with a formula": answered(table("=cmd|'/c calc'!A1,cat"), add), "a CSV with an open quote": answered(table('"cat/0.png,cat'), add),
    "a CSV with a NUL": answered(table("cat/\0.png,cat"), add), "a CSV of one field of 1 MB": answered(table("x"*(1 << 20) + ",cat"), add), "a CSV in an archive with an absolute path": answered(zip_of({"labels.csv": "path,class\n/etc/passwd,dog\ncat/1.png,cat\n"}), add, "/etc/passwd"),
    "an .npz with pickled code": answered(pickled, add), "an .npz that is text": answered(bytes_of("pets.npz", b"text"), add), "a .keras file with a layer of code": answered(lambda_keras, probe),
    "a .keras file of random bytes": answered(bytes_of("net.keras", lambda rng: rng.randbytes(5000)), probe),
    **{f"an .h5 probe with {what}": answered(h5_probe(f), probe) for what, f in {
        "text for weights": _odd_type, "a string": _text, "a compound type": _compound, "32 TB declared": _huge, "a reference": _reference, "an empty dataset": _empty, "numbers for names": _names,
        "a name of nothing": _names_of_nothing, "a dataset as layer": _dataset_as_layer, "one number for its names": _names_a_number, "a link to another file": _external, "a circle": _cycle}.items()},
    "an .h5 probe of random bytes": answered(bytes_of("net.h5", lambda rng: rng.randbytes(5000)), probe), "an .h5 probe of a signature alone": answered(bytes_of("net.h5", b"\x89HDF\r\n\x1a\n" + bytes(500)), probe),
    "records of a profile ../": answered(parcel(dict(profile="../../out")), unpack, "profile"), "records that name ../": answered(parcel(members={f"{UP}.json.gz": dict(RUN, kind="finetune", source=UP, slug=UP)}), unpack),
    "records of nothing": answered(bytes_of("records.zip", b"PK\5\6" + bytes(18)), unpack), "records without a list": answered(parcel(dict(records=None)), unpack), "a record that is a list": answered(parcel(members={"x.json.gz": [1]}), unpack),
    "records that are no archive": answered(bytes_of("records.zip", b"records"), unpack), "records of another format": answered(parcel(dict(format=9)), unpack), "records that it only lists": answered(parcel(dict(records={"a.json.gz": "0"})), unpack),
    "inputs of a run ../": answered(request(format=1, profile={}, runs=[dict(RUN, source=UP)], images=[], pools={}, recipes=[]), slice_of), "inputs that are a list": answered(request(), slice_of),
    "inputs without a profile": answered(request(format=1, runs=[]), slice_of), "inputs with odd recipes": answered(request(format=1, profile=dict(name="toy"), runs=[], images=[], pools={}, recipes=[7]), slice_of),
}

# ---- the engine itself, with kernels


def engine_command(place, env=(), prefix=()):
    code = "import sys; from catscans.study import main; sys.exit(main())"
    e = {k: v for k, v in os.environ.items() if not k.startswith(("CATSCANS_", "TF_"))} | place.env | dict(PYTHONPATH=f"{place.folder.parent/'site'}{os.pathsep}{ROOT}") | dict(env)
    return subprocess.Popen([*prefix, sys.executable, "-c", code, "run", *SMALL, "--jobs", "1"], env=e, cwd=place.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def family(place):
    import psutil
    out = []
    for p in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if p.pid != os.getpid() and p.status() != psutil.STATUS_ZOMBIE and p.environ().get("CATSCANS_PROJECT") == str(place.folder): out.append(p)
    return out


def victims(place, victim):
    "processes of a run by their part in it; fork server, steps and kernels go by one name, and are told by who started whom"
    def words(p):
        with contextlib.suppress(Exception): return " ".join(p.cmdline())
        return ""
    mine = family(place)
    if not victim.startswith("fork"): return [p for p in mine if victim in words(p)]
    forks = {p.pid: p for p in mine if "catscans.study.forkserver" in words(p)}
    def depth(p):
        with contextlib.suppress(Exception): return 1 + depth(forks[p.ppid()]) if p.ppid() in forks else 0
        return -1
    return [p for p in forks.values() if depth(p) == ("fork server", "forked step", "forked kernel").index(victim)]


def to_do(bench, slugs):
    "a project in which these steps are left; more than one are forks of a server"
    place = bench.place()
    for slug in slugs: place.record(slug).unlink()
    if PRE in slugs: place.weights.unlink()
    return place


def strike(p, place, victim, how, rng, wait):
    "send the signal at a random moment after the process is there; how many received it"
    end, there = time.time() + 60, lambda: victim == "command" or victims(place, victim)
    while p.poll() is None and time.time() < end and not there(): time.sleep(.05)
    time.sleep(rng.uniform(*wait))
    if p.poll() is not None: return 0
    if victim == "command": return p.send_signal(how) or 1
    struck = 0
    for q in victims(place, victim):
        with contextlib.suppress(Exception): struck += q.send_signal(how) is None
    return struck


def through_the_engine(victim, how, slugs=(TUNE,), wait=(3, 25)):
    "the whole command with Snakemake and kernels; one of its processes ends at a random moment; the same command again"
    def do(bench, rng):
        place = to_do(bench, slugs)
        p = engine_command(place)
        hit = strike(p, place, victim, how, rng, wait)
        struck = time.time()
        out, _ = p.communicate(timeout=120)
        if "Traceback" in out: raise Fault("TRACEBACK", out.strip().splitlines()[-1])
        if hit and victim == "command" and how != signal.SIGKILL and p.returncode not in (0, 130): raise Fault("WRONG", f"ended with {p.returncode}")
        while (left := family(place)) and time.time() < struck + 15: time.sleep(.2)
        if left: raise Fault("WRONG", f"still runs: {' '.join(left[0].cmdline())[:80]}")
        gone = time.time() - struck
        q = engine_command(place)
        again, _ = q.communicate(timeout=300)
        if "Traceback" in again: raise Fault("TRACEBACK", again.strip().splitlines()[-1])
        if q.returncode: raise Fault("LOST", again.strip().splitlines()[-1])
        same_as(place, bench.want)
        if not hit: return "no effect", "it had ended before"
        said = next((l.strip() for l in out.splitlines() if "killed" in l or "interrupted" in l or "Dead" in l), "")
        return "mended", f"all of it was gone after {gone:.1f} s; {said}".removesuffix("; ")
    return do


def engine_memory(mb, slugs=(TUNE,)):
    "the whole command under prlimit: its kernels may have so much memory"
    def do(bench, rng):
        place = to_do(bench, slugs)
        p = engine_command(place, prefix=("prlimit", f"--as={mb << 20}"))
        out, _ = p.communicate(timeout=300)
        if "Traceback" in out: raise Fault("TRACEBACK", out.strip().splitlines()[-1])
        if p.returncode == 0:
            same_as(place, bench.want)
            return "no effect", "it sufficed"
        said = next((l for l in out.splitlines() if "memory" in l), None)
        if not said: raise Fault("WRONG", f"memory is not named: {out.strip().splitlines()[-2:]}")
        ends_well(place, bench.want)
        return "refused", said
    return do


# ---- the list

NOTES = {"run.lock": (b"", b"{", b"[]", b'{"pid": 1, "engine": 1, "created": 1.0}', b'{"engine": "x", "mark": 7}', None), f"state/{TUNE}.json": (b"{", b"[]", b'{"state": 7}', b'{"state": "failed"}', b'{"state": "running"}', b'{"state": "failed", "time": 0}', None),
         "request.json": (b"{", None), "figures-before": (b"a file",), "logs": (b"a file",), "notebooks": (b"a file",), "set-aside": (b"a file",), "drawn/results.json": (b"{", b"[]", None), "checkpoints": (b"a file",),
         f"checkpoints/{TUNE}": (b"a file",)}

FILES = {"the record of the pretraining": lambda p: p.record(PRE), "the record of the fine-tuning": lambda p: p.record(TUNE), "the weights": lambda p: p.weights}


def trials(seed):
    "all of them: (kind, fault, function of the benchmark and its random numbers)"
    out = []
    add_ = lambda kind, fault, do: out.append((kind, fault, do))
    for what, find in FILES.items():
        for how, way in WAYS.items():
            if what != "the record of the fine-tuning" or how not in _TWICE: add_("weights" if "weights" in what else "records", f"{what} is {how}", damaged(find, way))
    for how in ("of no bytes", "cut to a third", "with one bit changed", "zeroed in parts", "random bytes"): add_("weights", f"the weights, about to be read, are {how}", to_be_read(WAYS[how]))
    add_("weights", "the weights, about to be read, are of another training", to_be_read(other_weights))
    for how, (change, seal) in CONTENTS.items(): add_("records", f"the record of the fine-tuning is {how}", record_content(TUNE, change, seal))
    for how in ("a stump", "of other settings, with a fitting checksum", "without folds", "a list"): add_("records", f"the record of the pretraining is {how}", record_content(PRE, *CONTENTS[how]))
    add_("records", "the two records have changed places", swapped(lambda p: p.record(PRE), lambda p: p.record(TUNE)))
    for f in ("pixels.npy", "labels.npy", "meta.json", "seal.json"):
        for how in ("missing", "of no bytes", "cut to a third", "with one bit changed", "random bytes", "a folder"): add_("image stores", f"{f} is {how}", stored(f, WAYS[how]))
    add_("image stores", "pixels.npy has 2,000 other bytes", stored("pixels.npy", many_bytes))
    add_("image stores", "labels.npy has the labels in another order", stored("labels.npy", other_labels))
    for f in ("checkpoint.npz", "fold1.npz"):
        for how in ("of no bytes", "cut to a third", "with one bit changed", "zeroed in parts", "a folder"): add_("half trainings", f"{f} is {how}", damaged(functools.partial(_half, f), WAYS[how], f))
    for i in range(6): add_("kills", f"kill -9 while pretraining, {i + 1}", killed((PRE, TUNE)))
    for i in range(6): add_("kills", f"kill -9 while fine-tuning, {i + 1}", killed((TUNE,)))
    add_("kills", "kill -9 twice", killed((PRE, TUNE), twice=True))
    for i in range(6): add_("kills", f"kill -9 while an image store is built, {i + 1}", store_build)
    for i in range(6): add_("kills", f"kill -9 during data get, {i + 1}", data_get)
    for i in range(6): add_("kills", f"kill -9 while figures are drawn, {i + 1}", results_write)
    for n in (0, 2_000, 12_000, 30_000): add_("want of room", f"no file may be larger than {n:,} bytes, pretraining", limited(resource.RLIMIT_FSIZE, n, (PRE, TUNE)))
    for n in (0, 2_000, 8_000): add_("want of room", f"no file may be larger than {n:,} bytes, fine-tuning", limited(resource.RLIMIT_FSIZE, n, (TUNE,)))
    for n in (4, 24, 96): add_("want of room", f"work has {n} KiB left, pretraining", full_disk("work", n, (PRE, TUNE)))
    for n in (4, 24, 64): add_("want of room", f"work has {n} KiB left, fine-tuning", full_disk("work", n, (TUNE,)))
    for n in (0, 8): add_("want of room", f"results have {n} KiB left", full_disk("results", n, (TUNE,)))
    for n in (0, 20, 100): add_("want of memory", f"{n} MB more than at the start, fine-tuning", limited(resource.RLIMIT_AS, n << 20, (TUNE,)))
    add_("want of memory", "12 open files", limited(resource.RLIMIT_NOFILE, 12, (TUNE,)))
    for what, find, mode, slugs in (("results may not be written", lambda p: p.records, 0o555, (TUNE,)), ("a record may not be read", lambda p: p.record(TUNE), 0, ()), ("a record may not be written, and is damaged", _cut_record, 0o444, ()),
                                    ("weights may not be read", lambda p: p.weights, 0, (TUNE,)), ("weights may not be written", lambda p: p.weights, 0o444, (TUNE,)), ("the folder of weights may not be written", lambda p: p.weights.parent, 0o555, (PRE, TUNE)),
                                    ("the work may not be written", lambda p: p.work/"toy", 0o555, (TUNE,)), ("the work may not be entered", lambda p: p.work/"toy", 0, (TUNE,)), ("the lock may not be written", _lock, 0o444, (TUNE,)),
                                    ("pixels may not be read", lambda p: p.store()/"pixels.npy", 0, (TUNE,)), ("the stores may not be written", lambda p: p.work/"stores", 0o555, (TUNE,)), ("a store may not be entered", lambda p: p.store(), 0, (TUNE,)),
                                    ("the work may not be written, all is done", lambda p: p.work/"toy", 0o555, ()), ("a notebook may not be read", lambda p: p.folder/"nbs"/"paper"/"finetune.ipynb", 0, (TUNE,))):
        add_("rights of an ordinary user", what, not_allowed(find, mode, slugs))
    add_("rights of an ordinary user", "runs in the project of somebody else", foreign_user)
    add_("rights of an ordinary user", "looks at the finished project of somebody else", others_finished)
    for slugs, kept, at_once in (((), True, False), ((), False, False), ((TUNE,), False, False), ((TUNE,), True, True), ((PRE, TUNE), True, True), ((TUNE,), False, True)):
        what = f"{len(slugs)} records are missing, {'both have' if kept else 'one has no'} weights, {'at once' if at_once else 'one after the other'}"
        add_("two projects with one results folder", what, shared_results(slugs, kept, at_once))
    for s, slugs in ((86400, (TUNE,)), (86400*4000, (TUNE,)), (-86400*4000, (TUNE,)), (1e10, (TUNE,)), (86400, ())): add_("clocks", f"all files are dated {'in 1970' if s == 1e10 else f'{s/86400:+.0f} days'}, {len(slugs)} to do", dated(s, slugs))
    for name, contents in NOTES.items():
        for c in contents: add_("notes and locks", f"{name.replace(TUNE, 'RUN')} is {'a folder' if c is None else c.decode() or 'empty'}", lying_about(name, c))
    odd = {"CATSCANS_WORK": ("{x}", "/proc/nothing", "/dev/null/x"), "CATSCANS_THREADS": ("0", "many", "1e9"), "KERAS_BACKEND": ("torch7",), "CATSCANS_DATA": ("/no/such/folder",)}
    for k, values in odd.items():
        for v in values: add_("settings", f"{k} is {v}", settings((k, v), **{k: v}))
    add_("settings", "CATSCANS_WORK begins with ~", settings(("CATSCANS_WORK",), CATSCANS_WORK="~/work", HOME=tempfile.gettempdir() + "/damage-home"))
    for what, do in HOSTILE.items(): add_("files of others", what, do)
    for i, (victim, how) in enumerate((("command", signal.SIGKILL), ("snakemake", signal.SIGKILL), ("ipykernel", signal.SIGKILL), ("command", signal.SIGTERM), ("command", signal.SIGINT), ("command", signal.SIGHUP))):
        add_("engine", f"{signal.Signals(how).name} to the {victim.replace('ipykernel', 'kernel')}", through_the_engine(victim, how))
    for mb in (700, 2500): add_("engine", f"prlimit of {mb} MB", engine_memory(mb))
    for victim, how in (("command", signal.SIGKILL), ("command", signal.SIGTERM), ("command", signal.SIGINT), ("snakemake", signal.SIGKILL)):
        add_("engine", f"{signal.Signals(how).name} to the {victim}, steps are forks", through_the_engine(victim, how, (PRE, TUNE)))
    for victim in ("fork server", "forked step", "forked kernel"): add_("engine", f"SIGKILL to the {victim}", through_the_engine(victim, signal.SIGKILL, (PRE, TUNE), (0, 3)))
    for mb in (700, 2500): add_("engine", f"prlimit of {mb} MB, steps are forks", engine_memory(mb, (PRE, TUNE)))
    return out


_TWICE = ("of no bytes", "without its last byte", "with another bit changed", "zeroed in parts")    # tried with the other record
def _half(name, place): return place.half(name)
def _cut_record(place):
    f = place.record(TUNE)
    f.write_bytes(f.read_bytes()[:700])
    return f
def _lock(place):
    f = place.work/"toy"/"run.lock"
    f.write_text("")
    return f
