"""The examples, as a newcomer runs them, in small."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"


def run(script: str, *arguments: str, environment: dict[str, str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(filter(None, (str(REPOSITORY / "src"), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **environment},
    )


def test_the_demo_makes_its_own_service_and_a_film(tmp_path: Path) -> None:
    result = run(
        "mandelbrot/demo.py",
        "--frames",
        "6",
        "--size",
        "48x30",
        "--out",
        str(tmp_path / "out"),
        environment={},
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "7/7" in result.stdout
    assert "speed-up" in result.stdout
    film = (tmp_path / "out" / "mandelbrot.png").read_bytes()
    assert film.count(b"fcTL") == 6
    # Nothing else is left: the service's own directory is gone.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mandelbrot.png"]


def test_the_demo_says_what_is_missing(tmp_path: Path) -> None:
    environment = {"AZURE_BATCH_ACCOUNT": "", "AZURE_BATCH_ACCESS_KEY": "", "AZURE_BATCH_ENDPOINT": ""}
    result = run("mandelbrot/demo.py", "--use-env", environment=environment, cwd=tmp_path)
    assert result.returncode == 1
    assert "--use-env needs AZURE_BATCH_ACCOUNT" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_words_of_the_users_own_folder_are_counted(service: Any, tmp_path: Path) -> None:
    texts = tmp_path / "my texts"
    texts.mkdir()
    (texts / "a b.txt").write_text("the pond, the mill; it's the Größe\n", encoding="utf-8")
    (texts / "two.txt").write_text("the mill\n", encoding="utf-8")
    (texts / "empty.txt").write_text("")
    (texts / "not.md").write_text("the the the")
    result = run(
        "wordcount/wordcount.py", str(texts), "--out", "out.tsv", environment=service.client_environment(), cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "failed at its first run, on purpose, with exit code 17" in result.stdout
    assert "(retry count 1)" in result.stdout
    lines = (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == ["4\tthe", "2\tmill", "1\tgröße", "1\tit's", "1\tpond"]


def test_the_word_count_says_what_is_missing(service: Any, tmp_path: Path) -> None:
    result = run("wordcount/wordcount.py", environment={"AZURE_BATCH_ENDPOINT": ""}, cwd=tmp_path)
    assert result.returncode == 1
    assert "millpond up" in result.stdout
    result = run("wordcount/wordcount.py", str(tmp_path), environment=service.client_environment(), cwd=tmp_path)
    assert result.returncode == 1
    assert "no *.txt in" in result.stdout


@pytest.fixture(params=["directory", "account"])
def with_storage(request: pytest.FixtureRequest, new_service: Any) -> dict[str, str]:
    """What a client is told of a service with each kind of storage."""
    environment: dict[str, str] = {}
    arguments: tuple[str, ...] = ()
    if request.param == "account":
        environment["AZURE_STORAGE_CONNECTION_STRING"] = request.getfixturevalue("azurite").connection_string
        arguments = ("--blob-connection-string-env", "AZURE_STORAGE_CONNECTION_STRING")
    service = new_service("data", *arguments, environment=environment).start()
    return {**environment, **service.client_environment()}


def test_the_quickstart(with_storage: dict[str, str], tmp_path: Path) -> None:
    result = run("quickstart/quickstart.py", environment=with_storage, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = [line.removeprefix("result").strip() for line in result.stdout.splitlines() if line.startswith("result")]
    texts = sorted((EXAMPLES / "quickstart" / "inputs").glob("*.txt"))
    assert counts == [f"{path.name}: {len(path.read_text().split())}" for path in texts]


def test_the_quickstart_says_what_is_missing(tmp_path: Path) -> None:
    result = run("quickstart/quickstart.py", environment={"AZURE_BATCH_ENDPOINT": ""}, cwd=tmp_path)
    assert result.returncode == 1
    assert "millpond up" in result.stdout


@pytest.mark.parametrize(
    "script",
    ["quickstart/quickstart.py", "wordcount/wordcount.py", "mpi_ring/mpi_ring.py", "mandelbrot/demo.py --use-env"],
)
def test_a_key_that_is_none_is_named(script: str, tmp_path: Path) -> None:
    variables = {
        "AZURE_BATCH_ACCOUNT": "a",
        "AZURE_BATCH_ACCESS_KEY": "abc",
        "AZURE_BATCH_ENDPOINT": "http://127.0.0.1:9",
    }
    result = run(*script.split(), environment=variables, cwd=tmp_path)
    assert result.returncode == 1
    assert "AZURE_BATCH_ACCESS_KEY is not a key" in result.stdout
    assert result.stderr == ""


def test_the_quickstart_says_why_it_is_refused(service: Any, tmp_path: Path) -> None:
    told = service.client_environment()
    result = run("quickstart/quickstart.py", environment={**told, "AZURE_BATCH_ACCESS_KEY": "AAAA"}, cwd=tmp_path)
    assert result.returncode == 1
    assert "AuthenticationFailed" in result.stdout
    nowhere = "http://127.0.0.1:9"
    result = run("quickstart/quickstart.py", environment={**told, "AZURE_BATCH_ENDPOINT": nowhere}, cwd=tmp_path)
    assert result.returncode == 1
    assert f"is there a service at {nowhere}?" in result.stdout


def test_help_of_the_quickstart_runs_nothing(service: Any, tmp_path: Path) -> None:
    result = run("quickstart/quickstart.py", "--help", environment=service.client_environment(), cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: quickstart.py")
    assert "uploaded" not in result.stdout


@pytest.fixture
def ffmpeg(require_component: Callable[[str, str], None]) -> None:
    for program in ("ffmpeg", "ffprobe"):
        if shutil.which(program) is None:
            require_component("ffmpeg", f"there is no {program} (Debian: ffmpeg)")


def sound_of(path: Path) -> dict[str, Any]:
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", str(path)]
    (stream,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"]
    assert isinstance(stream, dict)
    return stream


@pytest.mark.usefixtures("ffmpeg")
def test_clips_become_mp3s_and_a_broken_one_leaves_its_log(with_storage: dict[str, str], tmp_path: Path) -> None:
    result = run("ffmpeg/convert.py", environment=with_storage, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "failed     broken.mp4: " in result.stdout
    assert "out/ffmpeg/logs/broken.txt: Conversion failed!" in result.stdout
    # Half of it had been written: the condition kept it from being uploaded, not its absence.
    assert "is on its node, and was not uploaded" in result.stdout
    out = tmp_path / "out" / "ffmpeg"
    clips = [f"clip-{number}" for number in (1, 2, 3)]
    assert sorted(path.name for path in out.glob("*.*")) == [f"{clip}.mp3" for clip in clips]
    assert sorted(path.stem for path in (out / "logs").iterdir()) == ["broken", *clips]
    for clip in clips:
        sound = sound_of(out / f"{clip}.mp3")
        assert sound["codec_name"] == "mp3"
        assert 0.9 < float(sound["duration"]) < 1.3


def add_package(service: Any, directory: Path) -> None:
    """The example's application package, as its README makes it."""
    package = directory / "to-mp3.zip"
    with zipfile.ZipFile(package, "w") as archive:
        archive.write(EXAMPLES / "ffmpeg" / "to-mp3.sh", "to-mp3.sh")
    add = ["app", "add", "to-mp3", "1.0", str(package), "--default", "--data-dir", str(service.data_dir)]
    subprocess.run([sys.executable, "-m", "millpond", *add], check=True, timeout=60)


@pytest.mark.usefixtures("ffmpeg")
def test_films_of_the_users_own_are_converted_by_a_package(service: Any, tmp_path: Path) -> None:
    film = tmp_path / "mill & Größe.mkv"
    make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=duration=1", str(film)]
    subprocess.run(make, check=True)
    add_package(service, tmp_path)
    arguments = (str(film), "--package", "to-mp3", "--nodes", "1", "--out", "my films")
    result = run("ffmpeg/convert.py", *arguments, environment=service.client_environment(), cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    # The rate is one that only the package's script sets.
    assert sound_of(tmp_path / "my films" / "mill & Größe.mp3")["sample_rate"] == "22050"


@pytest.mark.usefixtures("ffmpeg")
def test_the_conversion_says_what_is_missing(service: Any, tmp_path: Path) -> None:
    environment = service.client_environment()
    result = run("ffmpeg/convert.py", environment={"AZURE_BATCH_ENDPOINT": ""}, cwd=tmp_path)
    assert result.returncode == 1
    assert "millpond up" in result.stdout
    result = run("ffmpeg/convert.py", environment={**environment, "PATH": "/nowhere"}, cwd=tmp_path)
    assert result.returncode == 1
    assert "there is no ffmpeg and no ffprobe here" in result.stdout
    add_package(service, tmp_path)
    for path in (service.data_dir / "storage" / "millpond-packages").glob("to-mp3-*"):
        path.unlink()
    result = run("ffmpeg/convert.py", "--package", "to-mp3", environment=environment, cwd=tmp_path)
    assert result.returncode == 1
    assert "is unusable: " in result.stdout
    assert "to-mp3" in result.stdout.partition("is unusable: ")[2]
