"What others read of this project: how to cite it, and what an archive is told, say the same as settings.ini."
import configparser, json, re

from fakes import ROOT


def settings():
    p = configparser.ConfigParser(interpolation=None)
    p.read(ROOT/"settings.ini")
    return p["DEFAULT"]


def test_citation_and_archive_say_the_same_as_settings():
    s, cff, zenodo = settings(), (ROOT/"CITATION.cff").read_text(), json.loads((ROOT/".zenodo.json").read_text())
    keywords = [k.strip() for k in s["keywords"].split(",")]
    field = lambda name: re.search(rf"^{name}: *\"?(.+?)\"?$", cff, re.M)[1]
    assert (field("version"), field("license"), field("title")) == (s["version"], s["license"], zenodo["title"])
    assert re.findall(r"^  - (.+)$", cff.split("keywords:\n")[1].split("\nidentifiers")[0], re.M) == keywords == zenodo["keywords"]
    assert (zenodo["version"], zenodo["license"]) == (s["version"], s["license"])
    assert zenodo["creators"] == [{"name": re.search(r"authors:\n  - name: (.+)", cff)[1]}]


def test_every_paper_that_the_archive_names_is_one_that_we_cite():
    named = [r["identifier"].removeprefix("arXiv:") for r in json.loads((ROOT/".zenodo.json").read_text())["related_identifiers"]]
    cited = (ROOT/"manuscript/references.bib").read_text()
    assert named and all(n in cited for n in named)
