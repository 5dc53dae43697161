"""What is deployed with: linted, with options that exist; the image's steps run afresh."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from crossfeed.cli import app
from crossfeed.serving.histories.url import open_store
from crossfeed.serving.http.guards.limits import Limits
from crossfeed.serving.process.uvicorn_server import stop_seconds

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, lines that go on joined."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    text = re.sub(r"CMD\n? +\[", "CMD [", text)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def runs(kind: str) -> list[str]:
    return [text for name, text in instructions() if name == kind]


def test_the_image_does_not_run_as_root() -> None:
    order = [name for name, _ in instructions()]
    assert runs("USER") == ["crossfeed"]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert "useradd --system" in runs("RUN")[-1]


def test_the_image_has_a_health_check_and_small_layers() -> None:
    assert len(runs("FROM")) == 2 and all("-slim" in image for image in runs("FROM"))
    assert "/health/ready" in runs("HEALTHCHECK")[0]
    assert all("--no-cache-dir" in run for run in runs("RUN") if "pip install" in run)


def test_what_the_image_copies_and_installs_is_there() -> None:
    for copied in runs("COPY"):
        if not copied.startswith("--from"):
            assert all((ROOT / name).exists() for name in copied.split()[:-1])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    [wanted] = re.findall(r"'\.\[(.+?)\]'", runs("RUN")[0])
    assert set(wanted.split(",")) <= set(extras)


def serve_options(command: list[str]) -> None:
    """Check that the command line is one that `crossfeed serve` reads."""
    known = subprocess.run(
        [sys.executable, "-m", "crossfeed", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    assert command[1] == "serve"
    assert all(option in known for option in command if option.startswith("--"))


def test_the_image_starts_what_there_is() -> None:
    [entry], [command] = runs("ENTRYPOINT"), runs("CMD")
    serve_options([*yaml.safe_load(entry), *yaml.safe_load(command)])


def test_compose_names_a_durable_redis_and_demands_keys() -> None:
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    service, redis = compose["services"]["crossfeed"], compose["services"]["redis"]
    assert redis["command"] == ["redis-server", "--appendonly", "yes", "--appendfsync", "always"]
    assert ":?" in service["environment"]["CROSSFEED_API_KEYS"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    serve_options(["crossfeed", "serve", *service["command"]])
    [mounted] = service["volumes"]
    [entry] = runs("ENTRYPOINT")
    assert mounted.split(":")[1] == yaml.safe_load(entry)[2]  # the folder above the bundles
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > stop_seconds(Limits()) + 5  # and what workers are given beyond it
    with_store = service["command"][service["command"].index("--history-store") + 1]
    open_store(with_store.replace("//redis:", "//127.0.0.1:")).close()  # the URL can be read


def test_the_unit_is_sound(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: Debian's package systemd has it")
    text = (DEPLOY / "crossfeed.service").read_text("utf-8")
    [start] = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    serve_options(shlex.split(start))
    unit = tmp_path / "crossfeed.service"
    unit.write_text(text.replace("/opt/crossfeed/bin/crossfeed", sys.executable), "utf-8")
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    told = [line for line in found.stderr.splitlines() if "crossfeed.service" in line]
    assert found.returncode == 0 and told == []


@pytest.mark.slow
def test_the_images_steps_in_a_fresh_environment(tmp_path: Path) -> None:
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src")
    steps = runs("RUN")[0].replace("/opt/crossfeed", str(tmp_path / "opt"))
    steps = re.sub(r"--index-url \S+", "", steps)  # the machine's own index
    subprocess.run(["bash", "-c", steps], cwd=tmp_path, check=True)
    installed = tmp_path / "opt" / "bin" / "crossfeed"
    shown = subprocess.run([installed, "serve", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "--history-store" in shown.stdout


def train_options(words: list[str], starter_options: set[str]) -> None:
    """Check that a command line is one that `torchrun` and `crossfeed train` read."""
    module = words.index("-m")
    assert words[0] == "torchrun" and words[module + 1 : module + 3] == ["crossfeed", "train"]
    named = {word.split("=")[0] for word in words[1:module]}
    assert named <= starter_options, named - starter_options
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    assert command.make_context("train", words[module + 3 :]).params["resume"]


@pytest.fixture(scope="module")
def starter_options() -> set[str]:
    from torch.distributed.run import get_args_parser

    return {option for action in get_args_parser()._actions for option in action.option_strings}


def test_the_job_starts_pods_that_find_each_other(starter_options: set[str]) -> None:
    service, job = yaml.safe_load_all((DEPLOY / "train.yaml").read_text("utf-8"))
    spec = job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    words = [*container["command"], *container["args"]]
    train_options(words, starter_options)
    options = dict(word.split("=") for word in words if word.startswith("--") and "=" in word)
    name = service["metadata"]["name"]
    assert spec["completionMode"] == "Indexed"  # which gives pods the host names NAME-0, NAME-1
    assert spec["completions"] == spec["parallelism"] == int(options["--nnodes"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == name
    port = service["spec"]["ports"][0]["port"]
    assert options["--rdzv-endpoint"] == f"{job['metadata']['name']}-0.{name}:{port}"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == options["--nproc-per-node"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_slurm_script_is_sound(starter_options: set[str]) -> None:
    file = DEPLOY / "train.sbatch"
    subprocess.run(["bash", "-n", str(file)], check=True)
    text = file.read_text("utf-8")
    [command] = re.findall(r"^srun (?:--\S+ )*(torchrun (?:.*\\\n)*.*)$", text, re.MULTILINE)
    train_options(shlex.split(command.replace("\\\n", " ")), starter_options)
    given = dict(re.findall(r"^#SBATCH (--[a-z-]+)=(\S+)$", text, re.MULTILINE))
    assert given["--ntasks-per-node"] == "1"  # one torchrun per machine starts the others
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first for i, line in enumerate(lines) if line.startswith("#SBATCH"))
