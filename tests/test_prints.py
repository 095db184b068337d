"Prints of sources: what they keep, what they recognise, and that the package's are small and hold no image."
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catscans.core.basics import UserError
from catscans.datasets.images import Images, fingerprint
from catscans.recommend import prints
from fakes import ROOT

DATA = ROOT/"catscans"/"data"/"prints"


def some(n=40, seed=0, name="mine", size=48):
    a = np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    x = np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BICUBIC)) for i in a])
    y = np.arange(n) % 2
    return Images(x, y, None, ["a", "b"], None, fingerprint(x, y, None, ["a", "b"]), name, np.arange(n).astype(str))


class Colour:
    name = "colour"
    def features(self, x): return np.asarray(x, float).mean((1, 2))


def test_the_packages_prints_are_small_and_hold_no_image():
    known, listed = prints.prints(DATA), pd.read_csv(DATA/"prints.csv")
    assert set(listed.print) == {f"{n}.npz" for n in known} and len(known) == 12 and sum(f.stat().st_size for f in DATA.iterdir()) < 300_000
    assert listed.licence.str.len().gt(3).all() and {p.licence for p in known.values()} == set(listed.licence)
    assert "covidct" not in known and not any(prints.KEPT_BACK in p.licence for p in known.values())
    for p in known.values():
        assert len(p.hashes) <= prints.HASHED and p.mean.shape == p.sd.shape == (512,) and np.isfinite(p.mean).all() and (p.sd >= 0).all() and p.used <= p.images
        assert p.hashes.shape[1]*8 == 256 and p.touch.shape == (2, 512)          # nothing has the shape of pictures
        assert set(p.statistics) == {"size", "n", "mean", "slope", "jpeg"} and p.statistics["size"] == p.size
    assert len({p.size for p in known.values()}) == 1 and all(prints.same_probe(p.touch, known["imagenet"].touch) for p in known.values())


def test_what_the_packages_prints_say_is_plausible():
    k = {n: p.look for n, p in prints.prints(DATA).items()}
    assert min(k, key=lambda n: prints.distance(k["imagenet"], k[n]) if n != "imagenet" else 1e9) in ("imagenette", "tinyimagenet"), "natural images lie together"


def test_a_print_is_written_whole_and_read_again(tmp_path):
    p = prints.make_print(some(), Colour())
    q = prints.read_print(prints.save_print(p, tmp_path/"mine.npz"))
    assert all(np.array_equal(getattr(p, k), getattr(q, k)) for k in (*prints._FACTS, "hashes", "touch", "mean", "sd"))
    f = Colour().features(some().x)
    assert np.allclose(q.mean, f.mean(0)) and np.allclose(q.sd, f.std(0))
    cut = tmp_path/"cut.npz"; cut.write_bytes((tmp_path/"mine.npz").read_bytes()[:500])
    with pytest.raises(UserError, match="cut.npz is not a print"): prints.prints(tmp_path)


def test_only_some_images_of_a_large_source_are_used():
    im = some(60)
    many = Images(np.concatenate([im.x]*50), np.arange(3000) % 2, None, ["a", "b"], None, "f", "many", np.arange(3000).astype(str))
    p = prints.make_print(many, Colour())
    assert (p.images, p.used, len(p.hashes)) == (3000, prints.USED, prints.HASHED)


def test_the_number_of_duplicates_asked_for_follows_what_can_be_found():
    "1 % of the target where all of a source is hashed; three images where little of it is, as its card says"
    src, im = some(200, 1, "theirs"), some(1000, 2)
    im.x[:5] = src.x[:5]
    whole = prints.make_print(src); part = prints.Print(**{**{k: getattr(whole, k) for k in prints._FACTS}, "images": 20_000, "hashes": whole.hashes})
    assert prints.own_sources(im, ["theirs"], {"theirs": whole}) == {} and "5 of 1,000" in prints.own_sources(im, ["theirs"], {"theirs": part})["theirs"]
    sample = prints.Print(**{**{k: getattr(whole, k) for k in prints._FACTS}, "name": "bloodmnist", "family": "bloodmnist"}, hashes=whole.hashes)
    assert prints.covers(sample) == (200, 17_092) and "5 of 1,000" in prints.own_sources(im, ["bloodmnist"], {"bloodmnist": sample})["bloodmnist"]


SPOKEN = {"blood-mnist": "bloodmnist", "Blood_MNIST": "bloodmnist", "my_bloodmnist": "bloodmnist", "isic_2018": "ham10000", "HAM-10000": "ham10000", "skin_ham10000": "ham10000", "Dataset_BUSI_with_GT": "busi",
          "tiny-imagenet-200": "imagenet", "mini-imagenet": "imagenet", "imagenette2-160": "imagenet", "stl-10": "imagenet", "NCT-CRC-HE-100K": "nct-crc", "chest-xray14": "chestxray14", "RadImageNet": "radimagenet",
          "chest_xray_pneumonia": "kermany", "OCT2017": "kermany-oct", "organsmnist_224": "lits"}


def test_names_are_read_without_what_stands_between_the_letters():
    assert {n: prints.families_named(n) for n in SPOKEN} == {n: {f} for n, f in SPOKEN.items()}
    assert prints.families_named("kermany2018") == {"kermany", "kermany-oct"} and prints.families_named("medmnist") == {"medmnist"} == prints.families_named("MedMNIST v2")
    for n in ("chest_ct_hospital", "Chest scans 2024", "chest", "malaria", "uiuc", "blood", "path", "small business", "split 10", "retina-mine", "fashion-mnist", "", "--"): assert prints.families_named(n) == set(), n


def test_features_that_are_no_numbers_are_refused():
    class Broken(Colour):
        def features(self, x): return np.full((len(x), 3), np.nan)
    with pytest.raises(UserError, match="NaN"): prints.make_print(some(), Broken())


def test_the_command(tmp_path, monkeypatch, capsys):
    assert prints.main(["nobody", "--probe", "net.h5", "--out", str(tmp_path/"o")]) == 2 and "unknown source" in capsys.readouterr().err
    assert prints.main(["--probe", str(tmp_path/"gone.h5"), "--out", str(tmp_path/"o")]) == 2 and "gone.h5" in capsys.readouterr().err and not (tmp_path/"o").exists()
    monkeypatch.delenv("CATSCANS_DATA", raising=False)
    class Body: input_shape = (None, 48, 48, 3)
    probe = Colour(); probe.body = Body
    with pytest.raises(UserError, match="CATSCANS_DATA"): prints.make_all(probe, tmp_path/"o", ["kermany"], say=lambda s: None)
    monkeypatch.setattr(prints, "source_images", lambda n, size: (some(30, name=n, size=size), "") if n == "kermany" else (None, "not here"))
    said = []
    told = prints.make_all(probe, tmp_path/"o", ["kermany", "radimagenet"], say=said.append)
    assert told == {"kermany": "", "radimagenet": "not here"} and any("radimagenet: no print, not here" in s for s in said)
    assert list(prints.prints(tmp_path/"o")) == ["kermany"] and pd.read_csv(tmp_path/"o"/"prints.csv").print.tolist() == ["kermany.npz"]


def test_another_folder_of_prints_may_be_named(tmp_path, monkeypatch):
    prints.save_print(some(name="kermany"), tmp_path/"kermany.npz", Colour())
    monkeypatch.setenv("CATSCANS_PRINTS", str(tmp_path))
    assert list(prints.prints()) == ["kermany"]
