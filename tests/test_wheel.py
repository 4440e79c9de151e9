"""The wheel: it holds what it should, and works where the checkout is not."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.runs import EVALUATORS, SPACES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from it; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into an environment that borrows the libraries of this one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    here = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # A plain line adds the folder and not what its own .pth files add: no editable checkout.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(here, "libraries.pth").write_text("\n".join(sorted(libraries)) + "\n", encoding="utf-8")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    options = ["--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([*pip, "install", *options, wheel], check=True, capture_output=True)
    return folder


def call(environment: Path, cwd: Path, *words: str) -> str:
    """Run a program of the environment far from the checkout, and return what it prints."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [environment / "bin" / words[0], *words[1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=variables,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_the_three_packages_and_the_model_and_no_more(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"autoproxy", "search_spaces", "evaluators", info}
    for package in ("autoproxy", "search_spaces", "evaluators"):
        here = {str(p.relative_to(ROOT)) for p in (ROOT / package).rglob("*.py")}
        assert here <= names
        assert f"{package}/py.typed" in names
    for folder in ("templates", "assets"):
        here = {str(p.relative_to(ROOT)) for p in (ROOT / "autoproxy/report" / folder).iterdir()}
        assert here <= names
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        assert f"evaluators/assets/starter-llama/{name}" in names
    assert any(name.startswith(info) and name.endswith("LICENSE") for name in names)
    assert not any("__pycache__" in name or name.endswith((".pyc", ".sqlite")) for name in names)


def test_the_source_distribution_holds_what_builds_it(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert not any(name.startswith(("tests/", "results/", ".venv", ".training")) for name in names)


def test_it_works_far_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    where = call(
        environment, tmp_path, "python", "-c", "import autoproxy; print(autoproxy.__file__)"
    )
    assert where.startswith(str(environment))
    assert "search" in call(environment, tmp_path, "autoproxy", "--help")
    listed = json.loads(call(environment, tmp_path, "autoproxy", "list", "--json"))
    assert listed["spaces"] == SPACES
    assert listed["evaluators"] == EVALUATORS
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind


def test_the_runs_of_the_repository_have_their_report(environment: Path, tmp_path: Path) -> None:
    for name in ("runs", "metrics", "reports.jsonl"):  # no ledger: that is one machine's
        from_repository = ROOT / "results" / name
        copy = shutil.copytree if from_repository.is_dir() else shutil.copy
        copy(from_repository, tmp_path / name)
    words = ["report", "--all", "--results", str(tmp_path), "--out", str(tmp_path / "site")]
    said = json.loads(call(environment, tmp_path, "autoproxy", *words, "--json"))
    runs = [path.name for path in (ROOT / "results" / "runs").iterdir()]
    assert sorted(said["runs"]) == sorted(runs)
    assert {f"runs/{run}.html" for run in runs} <= set(said["pages"])
    assert not (tmp_path / "ledger.sqlite").exists()


def test_the_starter_model_comes_along(environment: Path, tmp_path: Path) -> None:
    code = (
        "import evaluators.models as m\n"
        "from evaluators.layers import prunable\n"
        "loaded = m.load_model('starter', device='cpu', dtype='float32')\n"
        "print(m.__file__, loaded.family, len(prunable(loaded.model)))"
    )
    where, family, count = call(environment, tmp_path, "python", "-c", code).split()
    assert where.startswith(str(environment))
    assert family == "llama"
    assert int(count) >= 14
