"""What `samdiff infer` takes: subfolders, patterns, and what the lister lists with a reason."""

from pathlib import Path

import pytest

from samdiff.cli import main
from samdiff.errors import ImageError
from samdiff.model.inference.batch import OutputConfig, foreign_results, plan_outputs
from samdiff.model.inference.image_io import save_image
from samdiff.pipeline.images.inputs import InputFile, list_inputs

from ...helpers.models import write_model
from ...helpers.zoo import photo


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(files, folder):
    return [file.path.relative_to(folder).as_posix() for file in files]


def test_subfolders(tmp_path, caplog):
    """Without -r one line tells of them; with -r each result goes below --out as its input lies below the folder."""
    source = fill(tmp_path / "in", "a.png", "sub/a.png", "sub/deep/b.jpg", "@eaDir/a.png", ".hidden/c.png")
    assert names(list_inputs([source], "_x4"), source) == ["a.png"]
    assert "not searched: 2 in subfolders" in caplog.text
    files = list_inputs([source], "_x4", recursive=True)
    assert names(files, source) == ["a.png", "sub/a.png", "sub/deep/b.jpg"]
    jobs = plan_outputs(files, OutputConfig(out=tmp_path / "out"))
    assert [job.target.relative_to(tmp_path / "out").as_posix() for job in jobs] == [
        "a_x4.png",
        "sub/a_x4.png",
        "sub/deep/b_x4.png",
    ]
    assert plan_outputs(files, OutputConfig())[1].target == source / "sub" / "a_x4.png"


def test_results_are_not_inputs_of_the_next_run(tmp_path):
    """Neither beside their inputs nor in an output folder inside the searched folder."""
    source = fill(tmp_path / "in", "sub/a.png", "sub/a_x4.png", "out/sub/a_x4.png", "b_x4.png")
    out = source / "out"
    assert names(list_inputs([source], "_x4", recursive=True, out=out), source) == ["b_x4.png", "sub/a.png"]
    assert foreign_results([source], "_x4", recursive=True, out=out) == [source / "sub" / "a_x4.png"]
    assert names(list_inputs([out], "_x4", recursive=True, out=out), out) == ["sub/a_x4.png"]  # who names it means it


def test_patterns_do_not_look_into_folders_of_servers(tmp_path):
    source = fill(tmp_path / "in", "a.png", "@eaDir/a.png", "sub/b.png")
    assert names(list_inputs([f"{source}/**/*.png"], ""), source) == ["a.png", "sub/b.png"]
    assert names(list_inputs([f"{source}/@eaDir/*.png"], ""), source) == ["@eaDir/a.png"]


def test_formats_that_are_not_read_are_listed(tmp_path, capsys):
    """One among others: status 3; alone: an error that names it."""
    save_image(photo(16, 16, 0), tmp_path / "in" / "a.png")
    fill(tmp_path / "in", "b.xcf")
    model = write_model(tmp_path / "m.safetensors")
    words = ["infer", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--checkpoint", str(model), "--regress"]
    with pytest.raises(SystemExit, match="3"):
        main(words)
    assert "b.xcf: GIMP, a format that samdiff does not read (.xcf)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_x4.png"]
    with pytest.raises(ImageError, match=r"b\.xcf: a format that samdiff does not read"):
        plan_outputs([InputFile(Path("b.xcf"), problem="a format that samdiff does not read (.xcf)")], OutputConfig())
