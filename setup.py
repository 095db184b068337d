"""Package metadata, read from settings.ini (the one place where it is written)."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
cfg = parser["DEFAULT"]


def lines(key):
    return [line.strip() for line in cfg.get(key, "").splitlines() if line.strip()]


extras = {key.removesuffix("_requirements"): lines(key) for key in cfg if key.endswith("_requirements")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"],
    author=cfg["author"],
    packages=find_packages(include=["catscans", "catscans.*"]),
    package_data={"catscans": ["data/*", "data/**/*"]},
    include_package_data=True,
    install_requires=lines("requirements"),
    extras_require=extras,
    python_requires=f">={cfg['min_python']}",
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
)
