"""hourglass-train as a person meets it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from hourglass.contract import layout
from training.__main__ import _progress, main
from training.config import FitConfig
from training.progress import Progress
from training.run import Run
from training.trainer import EpochRecord

QUICK = ["--hidden=16", "--epochs=1", "--embedding-dim=2"]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return ["--exported", str(tmp_path / "exported"), "--runs", str(tmp_path / "runs")]


def test_fit_resume_and_export_print_the_published_folder_last(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "fit.toml"
    config.write_text('data = "digits"\nname = "other"\nepochs = 2\nhidden = [16]\n[options]\nnoise = "gaussian"\n')
    flags = ["--config", str(config), "--name=digits", "--epochs=1", "--option", "noise_level=0.5", *folders]
    assert main(["fit", *flags]) == 0
    streams = capsys.readouterr()
    assert streams.out == f"{tmp_path / 'exported' / 'digits' / '1'}\n"
    assert "epoch 1/1" in streams.err
    manifest = layout.read(tmp_path / "exported", "digits", 1).manifest
    assert manifest.provenance.config["epochs"] == 1
    assert manifest.provenance.config["options"].items() >= {"noise": "gaussian", "noise_level": 0.5}.items()

    (run,) = (tmp_path / "runs" / "digits").iterdir()
    assert main(["fit", *flags, "--resume", str(run)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'exported' / 'digits' / '2'}\n"
    assert main(["export", "--run", str(run), "--exported", str(tmp_path / "else")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'else' / 'digits' / '1'}\n"

    kept = (run / "checkpoint.safetensors").rename(tmp_path / "kept.safetensors")
    export = ["export", "--run", str(run), "--exported", str(tmp_path / "else")]
    assert main([*export, "--checkpoint", str(kept)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'else' / 'digits' / '2'}\n"
    assert main(export) == 2
    assert "checkpoint.safetensors: no such checkpoint" in capsys.readouterr().err

    assert main(["fit", "--resume", str(run), "--epochs=3"]) == 2
    assert "began with (1)" in capsys.readouterr().err


def test_list_shows_the_variants_and_their_options(capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("basic", "denoising", "noise_level", "0.25", "masking"))
    assert max(len(line) for line in shown.splitlines()) <= 100


@pytest.mark.parametrize(("width", "shown"), [(3, "aaa, bbb, ccc"), (40, "aaa, bbb, …")])
def test_the_first_line_of_a_fit_names_the_columns_that_fit_in(
    width: int, shown: str, tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
):
    names = [3 * chr(ord("a") + i) if i < 3 else f"a_column_with_a_long_name_{i}" for i in range(width)]
    names[2] = names[2] if width == 3 else 80 * "c"
    rows = np.random.default_rng(0).normal(size=(40, width))
    (tmp_path / "t.csv").write_text("\n".join(",".join(map(str, row)) for row in [names, *rows.tolist()]) + "\n")
    assert main(["fit", "--data", str(tmp_path / "t.csv"), "--name=t", *QUICK, *folders]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"40 rows of {width} columns: {shown}"
    assert len(first) <= 100


def test_help_has_every_setting_and_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as exit_code:
        main(["fit", "--help"])
    assert exit_code.value.code == 0
    shown = capsys.readouterr().out
    for name in FitConfig.model_fields.keys() - {"options"}:
        assert f"--{name.replace('_', '-')} " in shown
    assert max(len(line) for line in shown.splitlines()) <= 100


GOOD = "".join(f"{i},{i * i % 7}\n" for i in range(30))
BAD_FILES = {
    "text cell": ("a,b\n" + GOOD + "3,oops\n", r"t\.csv, line 32, column 'b': 'oops' is not a number"),
    "infinity": ("a,b\n1,2\ninf,3\n" + GOOD, r"t\.csv, line 3, column 'a': .*not a finite"),
    "no value": ("a,b\n" + "1,NA\n2,\n" * 12, r"t\.csv: no value in any row: --ignore b"),
    "ragged": ("a,b\n" + GOOD + "1,2,3\n", r"t\.csv.*32"),
    "empty": ("", r"t\.csv.*empty"),
    "header only": ("a,b\n", r"t\.csv: .*no row below it"),
    "one row": ("a,b\n1,2\n", r"t\.csv: 1 row to learn from.*at least 10"),
    "too few rows": ("a,b\n" + "1,2\n3,4\n5,6\n" * 3, r"t\.csv: 9 rows to learn from.*at least 10"),
    "constant": (
        "a,b,c,d\n" + "".join(f"{i},7,{-i},0\n" for i in range(30)),
        r"t\.csv: constant columns .* --ignore b,d leaves them out",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_gets_one_clear_line_and_leaves_nothing(
    kind: str, tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
):
    text, says = BAD_FILES[kind]
    (tmp_path / "t.csv").write_text(text)
    assert main(["fit", "--data", str(tmp_path / "t.csv"), "--name=t", *QUICK, *folders]) == 2
    error = capsys.readouterr().err
    assert re.search(says, error), error
    assert error.startswith("hourglass-train: error: ")
    assert error.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("cell", ["", "NaN", "?"])
def test_a_missing_cell_is_refused_where_nothing_learns_from_it(
    cell: str, tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "t.csv").write_text(f"a,b\n1,2\n{cell},3\n" + GOOD)
    assert main(["fit", "--data", str(tmp_path / "t.csv"), "--name=t", "--variant=basic", *QUICK, *folders]) == 2
    error = capsys.readouterr().err
    assert re.search(r"t\.csv, line 3, column 'a': .*--variant denoising, with masking noise", error), error


def test_what_the_message_advises_works(tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]):
    (tmp_path / "t.csv").write_text(BAD_FILES["constant"][0])
    flags = ["fit", "--data", str(tmp_path / "t.csv"), "--name=t", *QUICK, *folders]
    assert main(flags) == 2
    advised = re.search(r"--ignore \S+", capsys.readouterr().err)
    assert advised
    assert main([*flags, *advised[0].split()]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "--name=x"], "'data' is required"),
        (["fit", "--data=digits"], "'name' is required"),
        (["fit", "--data=digits", "--name=Not_a_name"], "not a model name"),
        (["fit", "--data=digits", "--name=x", "--epochs=many"], "'epochs'"),
        (["fit", "--data=digits", "--name=x", "--variant=denoise"], "did you mean denoising"),
        (["fit", "--data=digits", "--name=x", "--option=nois=masking"], "did you mean noise"),
        (["fit", "--data=digits", "--name=x", "--option=noise_level=2"], "noise_level is a share"),
        (["fit", "--data=digits", "--name=x", "--label=lable"], "did you mean 'label'"),
        (["fit", "--data=digits", "--name=x", "--label=label", "--exclude-label=12"], "no row has the label '12'"),
        (["fit", "--data=digits", "--name=x", "--learning-rate=1e30"], "try a lower --learning-rate"),
        (["fit", "--data=absent.csv", "--name=x"], "absent.csv: no such file"),
        (["fit", "--config=absent.toml"], "absent.toml: No such file"),
        (["fit", "--resume=absent"], "absent: not a run"),
        (["export", "--run=absent"], "absent: not a run"),
        (["export"], "--run"),
        (["fitt"], "invalid choice: 'fitt'"),
        ([], "required"),
        (["fit", "--epoch=3"], "--epoch=3"),
    ],
)
def test_a_wrong_command_gets_one_clear_line(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("hourglass-train: error: ")
    assert says in last
    assert not (tmp_path / "exported").exists()


def test_conv_on_a_table_is_refused_before_a_run_begins(tmp_path: Path, folders: list[str], capsys):
    np.save(tmp_path / "t.npy", np.random.default_rng(0).random((30, 4)))
    assert main(["fit", "--data", str(tmp_path / "t.npy"), "--name=t", "--network=conv", *folders]) == 2
    assert "conv needs images" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


WITHOUT = (
    "import sys; sys.modules[sys.argv[1]] = None; from training.__main__ import main; sys.exit(main(sys.argv[2:]))"
)


@pytest.mark.parametrize(("package", "command"), [("torch", ["fit", "--data=digits", "--name=x"]), ("rich", ["list"])])
def test_without_its_extra_the_program_says_how_to_add_it(package: str, command: list[str], tmp_path: Path):
    program = [sys.executable, "-c", WITHOUT, package, *command]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    message = f"hourglass-train: error: {package} is not installed: pip install 'hourglass-serving[train]'\n"
    assert done.stderr == message


def epoch(number: int) -> EpochRecord:
    return EpochRecord(number, 1e-3, {}, {}, 12.3456, True, 54321.0)


@pytest.fixture
def run(config: Callable[..., FitConfig], tmp_path: Path) -> Run:
    return Run(tmp_path / "run", config(epochs=3), "")


def test_a_terminal_shows_a_bar_with_loss_and_time_left(run: Run, capsys: pytest.CaptureFixture[str]):
    progress = Progress(Console(force_terminal=True, width=100, stderr=True, color_system=None))
    with progress.training(run) as show:
        show(epoch(1))
        show(epoch(2))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "2/3 epochs" in shown
    assert "loss 12.35" in shown
    assert "54,321 rows/s" in shown
    assert "left" in shown
    assert max(len(line) for line in re.split(r"[\r\n]", shown) if not line.startswith("run ")) <= 100


def test_elsewhere_there_are_a_few_plain_lines(run: Run, capsys: pytest.CaptureFixture[str]):
    progress = Progress(Console(force_terminal=False, stderr=True))
    with progress.training(run) as show:
        for number in range(1, 4):
            show(epoch(number))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"run {run.folder}", "epoch 3/3 · early-stop loss 12.35 · 54,321 rows/s"]


def test_names_that_look_like_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]):
    table = Table("column", "[red]holds")
    table.add_row("[/bold]", ":smile:")
    _progress().show(table)
    shown = capsys.readouterr().err
    assert all(text in shown for text in ("[red]holds", "[/bold]", ":smile:"))
