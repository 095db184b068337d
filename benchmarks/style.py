"""The style of the package as numbers, beside fastcore's: `python -m benchmarks.style [FOLDER] [--where] [--json] [--write]`.

A cell is what stands between two of nbdev's marks in an exported file; its lines, and those whose length is measured, are the ones that are
not blank. A file without marks is no cell, but its lines count. Parameters are those with a name of their own, `self` included, `*args` and
`**kwargs` not. A private name is one with a leading underscore that a file imports from another file of the package.

A function says that it raises when its docstring, or a comment beside its parameters, has the name of an error that it raises, or one of the
words raise, refuse (with their endings) and error; a "standard error" is none. Asked are functions and methods that can be reached by names
without a leading underscore, and that hold a `raise` anywhere; what stands inside another function is asked as a part of it."""
import argparse, ast, io, json, re, statistics, tokenize
from collections import namedtuple
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, COMMITTED = ROOT/"catscans", ROOT/"tests"/"style.json"
MARK = re.compile(r"^# %% (?:auto|\S+\.ipynb)\b.*$", re.M)
SAYS = re.compile(r"\b(raise[sd]?|refuse[sd]?|(?<!standard )(?<!standard-)error)\b", re.I)
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
MOST = 6          # parameters

Module = namedtuple("Module", "path text tree")
Place = namedtuple("Place", "file line what number", defaults=(0,))

# what gets worse when it grows -> how a sentence calls it, and what to do
HIGHER_IS_WORSE = {
    "cell_median": ("the median of exported cells, in lines", "cut the longest cells in two, each with its example"),
    "cell_90": ("the length that nine of ten cells keep to, in lines", "cut the longest cells in two, each with its example"),
    "cell_longest": ("the longest cell, in lines", "cut it in two, each with its example"),
    "over_120": ("lines over 120 characters, in percent", "break them"),
    "over_160": ("lines over 160 characters, in percent", "break them"),
    "joined": ("statements joined by `;` per 1,000 lines", "give each its line"),
    "many_parameters": (f"functions with more than {MOST} parameters", "put options that travel together into a frozen value"),
    "most_parameters": ("the parameters of the function that has most", "put options that travel together into a frozen value"),
    "private_imports": ("private names imported across files", "give the name no underscore, or move what needs it"),
    "silent": ("public functions that raise and do not say so", "name the error in the docstring"),
}
# name of the row, its form, fastcore's numbers, the aim
TABLE = (
    ("exported cell, median / 90 % / longest, lines", "{cell_median:g} / {cell_90:g} / {cell_longest}", "6 / 16 / 51", "10 / 25 / 40"),
    ("lines over 120 / 160 characters, %", "{over_120:.1f} / {over_160:.1f}", "1.6 / 0.2", "1 / 0"),
    ("statements joined by `;` per 1,000 lines", "{joined:.1f}", "1", "2"),
    (f"functions with more than {MOST} parameters", "{many_parameters} of {functions:,} ({most_of} {most_parameters})", "9 of 1,034", "10"),
    ("private names imported across files", "{private_imports}", "0", "0"),
    ("public functions that raise and say so", "{said} of {raising}", "", "all"),
)

def modules(
    root, # folder of a package, or of a part of it
)->list:  # of Module
    "Every file but nbdev's index. A folder without any is refused with a `ValueError`."
    paths = [p for p in sorted(Path(root).rglob("*.py")) if p.name != "_modidx.py"]
    if not paths: raise ValueError(f"no modules under {root}: name the folder of a package")
    texts = [p.read_text(encoding="utf-8") for p in paths]
    return [Module(p.relative_to(root).as_posix(), text, ast.parse(text, str(p))) for p, text in zip(paths, texts)]

def cells(
    m, # Module
)->list: # of Place: first line, number of lines that are not blank
    "The exported cells of a file, without the one that nbdev writes."
    marks = list(MARK.finditer(m.text))
    ends = [k.start() for k in marks[1:]] + [len(m.text)]
    line = lambda k: m.text.count("\n", 0, k.start()) + 1
    long = lambda k, end: sum(bool(l.strip()) for l in m.text[k.end():end].splitlines())
    return [Place(m.path, line(k), "cell", long(k, end)) for k, end in zip(marks, ends) if not k[0].startswith("# %% auto")]

def lines(
    m, # Module
)->list: # of Place: its length
    "The lines of a file's exported cells, or of the whole file where it has no marks, that are not blank."
    starts = {k.group(): k.group().startswith("# %% auto") for k in MARK.finditer(m.text)}
    counts, found = not starts, []
    for n, l in enumerate(m.text.splitlines(), 1):
        if l in starts: counts = not starts[l]
        elif counts and l.strip(): found.append(Place(m.path, n, "line", len(l)))
    return found

def joined(
    m, # Module
)->list: # of Place
    "Where a statement follows another on its line."
    tokens = tokenize.generate_tokens(io.StringIO(m.text).readline)
    return [Place(m.path, t.start[0], ";") for t in tokens if t.type == tokenize.OP and t.string == ";"]

def functions(
    m, # Module
)->list: # of Place: name, number of parameters
    "Every function of a file, methods and inner ones too."
    count = lambda a: len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs)
    return [Place(m.path, f.lineno, f.name, count(f.args)) for f in ast.walk(m.tree) if isinstance(f, FUNCTION)]

def private_imports(
    m, # Module
)->list: # of Place
    "Private names that a file takes from another file of the package."
    ours = lambda i: i.level or (i.module or "").split(".")[0] == PACKAGE.name
    found = [i for i in ast.walk(m.tree) if isinstance(i, ast.ImportFrom) and ours(i)]
    return [Place(m.path, i.lineno, a.name) for i in found for a in i.names if a.name.startswith("_") and not a.name.startswith("__")]

def _public(body):
    "The functions and methods that can be reached by public names."
    for node in body:
        if getattr(node, "name", "_").startswith("_"): continue
        if isinstance(node, FUNCTION): yield node
        elif isinstance(node, ast.ClassDef): yield from _public(node.body)

def _errors(f):
    "The names of what a function raises."
    made = [r.exc.func if isinstance(r.exc, ast.Call) else r.exc for r in ast.walk(f) if isinstance(r, ast.Raise)]
    return {ast.unparse(e).split(".")[-1] for e in made if e is not None}

def _said(m, f):
    "A function's docstring and the comments beside its parameters."
    first = f.body[0].lineno if f.body[0].lineno > f.lineno else f.lineno + 1
    return (ast.get_docstring(f) or "") + " ".join(re.findall("#.*", "\n".join(m.text.splitlines()[f.lineno-1:first-1])))

def raising(
    m, # Module
)->list: # of Place: name, 1 where the function says so
    "The public functions of a file that raise."
    says = lambda f: bool(SAYS.search(_said(m, f))) or any(re.search(rf"\b{re.escape(e)}\b", _said(m, f)) for e in _errors(f))
    return [Place(m.path, f.lineno, f.name, int(says(f))) for f in _public(m.tree.body) if any(isinstance(r, ast.Raise) for r in ast.walk(f))]

def places(
    root=PACKAGE, # folder of a package, or of a part of it
)->dict: # kind -> list of Place
    "Everything that is counted, with its places. A folder without modules is refused with a `ValueError`."
    ms = modules(root)
    kinds = dict(cells=cells, lines=lines, joined=joined, functions=functions, private_imports=private_imports, raising=raising)
    return {kind: [p for m in ms for p in find(m)] for kind, find in kinds.items()}

def measure(
    root=PACKAGE, # folder of a package, or of a part of it
)->dict:
    "The numbers of the table, and of how many. A folder without modules is refused with a `ValueError`."
    found = places(root)
    length, long = sorted(c.number for c in found["cells"]) or [0], [l.number for l in found["lines"]]
    most = max(found["functions"], key=lambda f: f.number, default=Place("", 0, "none"))
    share = lambda n, per: round(per*n/max(len(long), 1), 1)
    return dict(cells=len(found["cells"]), cell_median=statistics.median(length), cell_90=length[int(.9*len(length))], cell_longest=length[-1],
                lines=len(long), over_120=share(sum(n > 120 for n in long), 100), over_160=share(sum(n > 160 for n in long), 100),
                joined=share(len(found["joined"]), 1000), functions=len(found["functions"]),
                many_parameters=sum(f.number > MOST for f in found["functions"]), most_parameters=most.number, most_of=most.what,
                private_imports=len(found["private_imports"]), raising=len(found["raising"]),
                said=sum(f.number for f in found["raising"]), silent=sum(not f.number for f in found["raising"]))

def worse(
    now:dict,       # as from `measure`
    committed:dict, # likewise, as tests/style.json holds it
)->list:
    "One sentence for each number that got worse."
    absent = [f"tests/style.json has no {k}: run `python -m benchmarks.style --write`" for k in HIGHER_IS_WORSE if k not in committed]
    grown = [k for k in HIGHER_IS_WORSE if k in committed and now[k] > committed[k]]
    say = lambda what, do, k: f"{what}: {committed[k]:g} before, {now[k]:g} now; {do} (`python -m benchmarks.style --where` lists the places)"
    return absent + [say(*HIGHER_IS_WORSE[k], k) for k in grown]

def write(
    now:dict,       # as from `measure`
    path=COMMITTED,
):
    "Keep the numbers; worse ones than those that are kept are refused with a `ValueError`."
    why = worse(now, now | json.loads(path.read_text())) if path.exists() else []
    if why: raise ValueError("\n".join([*why, f"nothing was written to {path.name}: where worse numbers are meant, delete the file first"]))
    path.write_text(json.dumps(now, indent=1) + "\n")

def table(
    now:dict, # as from `measure`
)->str:
    "The numbers beside fastcore's and the aims."
    rows = [("", "catscans", "fastcore", "aim"), *((name, form.format(**now), other, aim) for name, form, other, aim in TABLE)]
    return "\n".join(f"{a:48}{b:28}{c:14}{d}".rstrip() for a, b, c, d in rows)

def where(
    root=PACKAGE, # folder of a package, or of a part of it
)->str:
    "The places behind the numbers, one a line: cells over 25 lines, lines over 160 characters, and every other offence."
    found = places(root)
    rows = [(p, f"a cell of {p.number} lines") for p in sorted(found["cells"], key=lambda p: -p.number) if p.number > 25]
    rows += [(p, f"a line of {p.number} characters") for p in found["lines"] if p.number > 160]
    rows += [(p, "a statement joined by `;`") for p in found["joined"]]
    rows += [(p, f"{p.what} has {p.number} parameters") for p in found["functions"] if p.number > MOST]
    rows += [(p, f"{p.what} is private and imported") for p in found["private_imports"]]
    rows += [(p, f"{p.what} raises and does not say so") for p in found["raising"] if not p.number]
    return "\n".join(f"{p.file}:{p.line}: {text}" for p, text in rows)

def options(argv):
    p = argparse.ArgumentParser(prog="python -m benchmarks.style", description=__doc__.splitlines()[0])
    p.add_argument("folder", nargs="?", default="", help="a folder of the package, such as datasets; default: all")
    p.add_argument("--where", action="store_true", help="list the places instead")
    p.add_argument("--json", action="store_true", help="print the numbers as JSON")
    p.add_argument("--write", action="store_true", help="keep the numbers as tests/style.json, which a test holds")
    a = p.parse_args(argv)
    if a.write and a.folder: p.error(f"only the numbers of the whole package are kept, received the folder {a.folder}: leave it out")
    if not list((PACKAGE/a.folder).rglob("*.py")): p.error(f"no modules under catscans/{a.folder}: name a folder of the package")
    return a

def main(argv=None):
    a = options(argv)
    if a.where: return print(where(PACKAGE/a.folder))
    now = measure(PACKAGE/a.folder)
    if a.write:
        try: write(now)
        except ValueError as e: raise SystemExit(str(e)) from None
    print(json.dumps(now, indent=1) if a.json else table(now))

if __name__ == "__main__": main()
