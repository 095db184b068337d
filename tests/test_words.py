"What people read: every line that a command says goes through one function and fits the terminal, the honest limit and the summary come first."
import ast, re, shutil
from pathlib import Path

import numpy as np
import pytest

from catscans.study.cli import main
from fakes import ROOT

PRINTED = {"tell": 1, "_doctor": 2, "_audit": 1, "main_rank": 1, "main_compare": 1, "_plan": 1}   # function -> its calls of `print`: the one outlet, and JSON


def printing(tree):
    "name of the function -> how many calls of `print` it holds"
    found = {}
    for f in ast.walk(tree):
        if not isinstance(f, ast.FunctionDef): continue
        n = sum(isinstance(c, ast.Call) and isinstance(c.func, ast.Name) and c.func.id == "print" for c in ast.walk(f))
        if n: found[f.name] = n
    return found


def test_one_function_says_everything():
    "and JSON is printed as it is"
    found = {}
    for f in sorted((ROOT/"catscans").glob("*/*.py")): found |= printing(ast.parse(f.read_text()))
    assert found == PRINTED


@pytest.mark.wrapped
@pytest.mark.parametrize("line", ["data list", "status --profile lite", "data where isic2018", "rank nowhere", "run --profile tyo", "data add photos"])
def test_every_line_fits(capsys, monkeypatch, line):
    for k in ("COLUMNS", "CATSCANS_DATA"): monkeypatch.delenv(k, raising=False)
    main(line.split())
    for width in (100, 72):
        said = capsys.readouterr()
        lines = (said.out + said.err).splitlines()
        assert lines
        # what is longer is one word, such as an address
        assert not [l for l in lines if len(l) > width and len(l.split()) > 1 + l.startswith(" ")], (width, lines)
        monkeypatch.setenv("COLUMNS", "72")
        main(line.split())


@pytest.fixture
def table(tmp_path):
    "24 images of two classes and twelve patients, named by a CSV"
    from PIL import Image
    rng, rows = np.random.default_rng(0), ["path,class,patient"]
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path/f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]},p{i//2}")
    (tmp_path/"t.csv").write_text("\n".join(rows))
    return tmp_path/"t.csv"


@pytest.mark.parametrize("line,says", [("--group-col patint", "has no column patint (did you mean patient?)"), ("--class-col clas", "has no column clas (did you mean class?)")])
@pytest.mark.parametrize("command", ["rank", "data doctor"])
def test_a_column_that_is_not_there_names_the_nearest(table, capsys, command, line, says):
    assert main([*command.split(), str(table), *line.split()]) == 2 and says in capsys.readouterr().err


@pytest.mark.wrapped
def test_rank_begins_with_its_limit_and_says_what_a_group_column_changes(table, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["rank", str(table)]) == 0
    plain = capsys.readouterr().out.splitlines()
    assert plain[1].startswith("this ranking does not know what your images show") and len(plain) <= 29 and max(map(len, plain)) <= 100
    assert main(["rank", str(table), "--group-col", "patient"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:20] == plain[:20] and [l for l in lines if l.startswith("note: --group-col patient does not change this order")]
    assert main(["rank", str(table), "--verbose"]) == 0
    long = capsys.readouterr().out
    assert len(long.splitlines()) > len(plain) and "tested on families" in long and max(map(len, long.splitlines())) <= 100


def test_check_counts_what_came_with_the_clone_and_only_the_profiles_own_stores(tmp_path, monkeypatch):
    "a damaged figure is found although nothing was drawn here, and other people's images are not this profile's"
    from catscans.core.files import figures_dir
    from catscans.datasets.store import keep
    from catscans.study.verify import verify
    for k, v in dict(CATSCANS_PROJECT=tmp_path, CATSCANS_WORK=tmp_path/"work").items(): monkeypatch.setenv(k, str(v))
    pixels = lambda: (np.zeros((2, 8, 8, 3), np.uint8), [0, 1], None, ["a", "b"])
    own, other = keep("toy-dtd", pixels, 8), keep("pets", pixels, 8)
    here = figures_dir("toy")
    here.mkdir(parents=True)
    for f in (ROOT/"figures"/"published").glob("fig2_*"): shutil.copy(f, here)
    for f in (own, other): (Path(f.x.filename).parent/"labels.npy").write_bytes(b"x")
    wrong, said = verify("toy")
    assert "1 image store, 0 drawing notes, 3 figures (3 not drawn here: they were only opened); 1 thing is wrong" in said and "toy-dtd-8-" in wrong[0]
    assert verify("published") == ([], f"published: nothing of it is here to be looked at (in {tmp_path})")
    png = here/"fig2_design.png"
    png.write_bytes(png.read_bytes()[:3000])
    assert [w for w in verify("toy")[0] if str(png) in w and "cannot be read" in w]


def test_tables_have_words_as_the_heads_of_their_columns():
    "the CSV beside a table keeps the names that a program reads"
    heads = {f: f.read_text().splitlines()[0] for f in sorted((ROOT/"figures").glob("*/table*.md"))}
    assert len(heads) > 15 and not [f for f, head in heads.items() if re.search(r"\w_\w", head)]
