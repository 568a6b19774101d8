"""The images: what they contain and install, and that the flows run from it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deployments.locked import LockError, blocks, part
from tests.conftest import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
IMAGES = {"flows": ROOT / "deployments/Dockerfile", "worker": ROOT / "deployments/worker/Dockerfile"}
SECRET = re.compile(
    r"secret|password|passwd|token|credential|api_?key|auth_string|account_?key|connection_string", re.I
)

dockerfiles = pytest.mark.parametrize("path", IMAGES.values(), ids=IMAGES)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its text, continued lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text_lines = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word, text) for word, _, text in (line.partition(" ") for line in text_lines.splitlines() if line)
    ]


def of(path: Path, word: str) -> list[str]:
    return [text for instruction, text in instructions(path) if instruction == word]


# What the images say


@dockerfiles
def test_the_base_image_is_a_build_argument_of_every_stage(path):
    assert instructions(path)[0][0] == "ARG"
    assert instructions(path)[0][1].startswith("BASE_IMAGE=")
    assert {text.split()[0] for text in of(path, "FROM")} == {"${BASE_IMAGE}"}


@dockerfiles
def test_no_secret_can_be_in_a_layer(path):
    assert not [text for text in (*of(path, "ENV"), *of(path, "ARG")) if SECRET.search(text)]
    assert not of(path, "ADD")
    assert SECRET.search("ENV PREFECT_API_KEY=x")


@dockerfiles
def test_the_last_stage_ends_as_a_user_who_is_not_root(path):
    words = [word for word, _ in instructions(path)]
    users = of(path, "USER")
    assert int(users[-1]) > 0
    assert words.index("USER") > len(words) - 1 - words[::-1].index("FROM")
    assert f"--uid {users[-1]}" in path.read_text()


@dockerfiles
def test_only_pins_with_hashes_of_the_lock_are_installed_and_bytecode_is_compiled(path):
    installing = re.findall(r"pip install ((?:(?! && ).)*)", " ".join(of(path, "RUN")))
    packages = [text for text in installing if "--editable /app" not in text]
    assert len(packages) == 2
    for text in packages:
        assert re.search(r"--require-hashes .*--requirement \w+\.lock", text)
    assert "--compile-bytecode" in packages[-1]
    assert all("--no-deps" in text and "--offline" in text for text in installing if text not in packages)
    locks = dict(re.findall(r"locked\.py requirements\.lock ?(.*?) > (\w+\.lock)", " ".join(of(path, "RUN"))))
    installed = re.findall(r"--requirement (\w+\.lock)", " ".join(installing))
    assert set(locks.values()) == set(installed)
    for names in locks:
        assert part(LOCK, names.split()).count("--hash=sha256:") >= 1


def test_there_is_no_entry_point_that_a_command_would_have_to_work_round():
    for path in IMAGES.values():
        assert not of(path, "ENTRYPOINT")
    assert of(IMAGES["flows"], "CMD") == ['["python", "-m", "flows"]']


# The part of the lock that is installed


def needs(name: str, extras: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    """The direct requirements of a package that is installed here, by its metadata."""
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        environments = [{"extra": extra} for extra in extras or {""}]
        if requirement.marker is None or any(requirement.marker.evaluate(one) for one in environments):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def closure(*roots: str) -> set[str]:
    """The installed packages that `roots` need, including `roots`, by their metadata."""
    nodes: set[tuple[str, frozenset[str]]] = set()
    open_ = [(root, frozenset[str]()) for root in roots]
    while open_:
        one = open_.pop()
        if one not in nodes:
            nodes.add(one)
            open_.extend(needs(*one))
    return {name for name, _ in nodes}


def test_the_image_installs_all_that_the_installed_packages_say_they_need():
    assert closure("almanac") - {"almanac"} <= set(blocks(part(LOCK)))
    assert closure("prefect", "prefect-azure") <= set(blocks(part(LOCK, ["prefect", "prefect-azure"])))


def test_the_image_has_no_development_tools_and_the_worker_no_models():
    runtime, worker = set(blocks(part(LOCK))), set(blocks(part(LOCK, ["prefect", "prefect-azure"])))
    assert not runtime & {
        "pytest",
        "hypothesis",
        "ruff",
        "mypy",
        "uv",
        "ipykernel",
        "nbclient",
        "import-linter",
        "mlflow",
        "onnxruntime",
        "matplotlib",
    }
    assert not worker & {
        "polars",
        "pandas",
        "numpy",
        "lightgbm",
        "dask",
        "deltalake",
        "scikit-learn",
        "pyarrow",
    }
    assert {"prefect", "prefect-azure", "azure-identity"} <= worker < runtime


def test_a_part_has_the_pins_and_every_hash_of_the_lock_as_they_stand():
    whole = blocks(LOCK)
    for name, lines in blocks(part(LOCK)).items():
        assert lines == [line for line in whole[name] if not line.lstrip().startswith("#")]
        assert "==" in lines[0]
        assert lines[1].startswith("    --hash=sha256:")


def test_a_package_that_is_not_locked_is_an_error_that_names_it():
    with pytest.raises(LockError, match="no-such-thing: not in the lock"):
        part(LOCK, ["no-such-thing"])


# What gets into the images


def ignored(path: str, rules: list[str]) -> bool:
    """Whether `.dockerignore` excludes a path: the last rule that matches it, or a folder above it, decides."""
    out = False
    parts = path.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for rule in rules:
        pattern = rule.removeprefix("!").rstrip("/")
        anywhere = pattern.removeprefix("**/")
        names = parts if pattern.startswith("**/") else above
        if any(fnmatch(name, anywhere) and name.count("/") == anywhere.count("/") for name in names):
            out = not rule.startswith("!")
    return out


RULES = [
    line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
]


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".venv/bin/python", "tests/conftest.py", "store/sales/history/x.parquet", "node_modules/x/y.js",
        ".env", "flows/.env", "flows/.env.local", "mlflow.db", "tasks/prefect.db", "flows/__pycache__/sales.pyc",
        "models/sales/__pycache__/x.cpython-311.pyc", "notebooks/x.ipynb", "deployments/azure/main.json", "docs/azure.md",
        "prefect.yaml", ".prefect/profiles.toml",
    ],
)  # fmt: skip
def test_nothing_gets_in_that_is_not_the_program(path):
    assert ignored(path, RULES)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """The build context: every tracked or new file of the project that `.dockerignore` lets in."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: what is part of the project is not known")
    for name in listing.stdout.splitlines():
        if (ROOT / name).is_file() and not ignored(name, RULES):
            (tmp_path / "context" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "context" / name)
    return tmp_path / "context"


def put(source: Path, target: Path) -> None:
    """Copy a file into a folder, or a folder as a folder."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


@pytest.mark.slow
def test_all_that_is_copied_is_there_and_the_flows_run_from_it(context, tmp_path):
    app = tmp_path / "app"
    for path in IMAGES.values():
        for copied in (text.split() for text in of(path, "COPY") if not text.startswith("--from")):
            for source in copied[:-1]:
                assert (context / source).exists(), source
                if copied[-1].startswith("/app/"):
                    put(context / source, app / copied[-1].removeprefix("/app/"))
    folders = [file.name for file in app.iterdir() if file.is_dir()]
    assert sorted(folders) == ["flows", "models", "tasks"]
    assert not [
        file for file in app.rglob("*") if file.suffix in (".db", ".pyc") or file.name.startswith(".")
    ]
    python = installed(app, tmp_path / "venv")
    (words,) = of(IMAGES["flows"], "CMD")
    assert words == '["python", "-m", "flows"]'
    output = run(python, app, "-m", "flows", "sales", "forecast", "--help")
    assert "Forecast every SKU and store" in output
    program = (
        "import flows; from tasks.registry.code import code_version; print(flows.__file__, code_version())"
    )
    assert run(python, app, "-c", program).startswith(f"{app / 'flows/__init__.py'} 0.")
    where = "from importlib.metadata import distribution; print(distribution('almanac').locate_file(''))"
    assert run(python, app, "-c", where).startswith(str(tmp_path / "venv"))


def installed(app: Path, folder: Path) -> Path:
    """A Python with the project installed as in the image, and the packages installed here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (command,) = re.findall(r"/uv (pip install [^&]*--editable) /app", " ".join(of(IMAGES["flows"], "RUN")))
    python = folder / "bin/python"
    words = command.replace("/opt/almanac/bin/python", str(python)).split()
    subprocess.run([Path(sys.executable).parent / "uv", *words, str(app)], check=True, capture_output=True)
    return python


def run(python: Path, app: Path, *words: str) -> str:
    """The output of a command in the folder of a container and with its small environment."""
    environment = {name: os.environ[name] for name in ("PATH", "PREFECT_HOME")}
    command = [python, *words]
    process = subprocess.run(command, cwd=app, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout
