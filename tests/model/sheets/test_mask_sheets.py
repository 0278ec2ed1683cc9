"""Errors of `samdiff masks` that name the place, before a segmenter is used."""

import json
from pathlib import Path

import numpy as np
import pytest

from samdiff.cli import main
from samdiff.errors import ConfigError, ImageError
from samdiff.model.inference.image_io import save_image
from samdiff.model.sheets.mask_sheets import MaskJob, draw_masks, list_mask_inputs, plan_mask_files


class NoSegmenter:
    """Fails the test if it has to segment anything."""

    def generate_batch(self, images, /):
        for _ in images:
            pytest.fail("nothing is segmented")
        return iter(())


def two_images(folder: Path) -> list:
    for name in "ab":
        save_image(np.full((8, 8, 3), 90, np.uint8), folder / f"{name}.png")
    return list_mask_inputs([folder / "a.png", folder / "b.png"], recursive=False, out=None)[0]


@pytest.mark.parametrize("option", ["--out", "--records"])
def test_a_folder_that_cannot_be_made_is_one_error_before_the_work(tmp_path, option):
    """Not a reason for each of the images, after the weights were loaded."""
    images = two_images(tmp_path)
    (tmp_path / "file").write_text("mine")
    folders = {"--out": tmp_path / "out", "--records": None, option: tmp_path / "file" / "x"}
    with pytest.raises(ConfigError) as error:
        plan_mask_files(images, folders["--out"], folders["--records"])
    assert str(error.value).startswith(f"{option} {tmp_path}/file/x: cannot be written ({tmp_path}/file is not a folder); give")
    assert str(error.value).endswith(f"give another {option}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "file"]


def test_no_weights_are_loaded_for_nothing(tmp_path, monkeypatch, capsys):
    """A second run of the same command: each drawing is there, so that the weights (here a file that is no weights) are not opened."""
    two_images(tmp_path)
    command = ["masks", str(tmp_path), "-o", str(tmp_path / "out"), "--sam", "vit_h"]
    (tmp_path / "no_weights.pth").write_text("none")
    command += ["--sam-weights", str(tmp_path / "no_weights.pth")]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 1
    assert "no_weights.pth" in capsys.readouterr().err
    for name in "ab":
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / f"{name}_masks.png").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--json"])
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert stopped.value.code == 3
    assert (document["segmenter"], document["device"], len(document["images"])) == (None, None, 2)
    assert err.count("exists already; give --overwrite") == 2
    assert (tmp_path / "out" / "a_masks.png").read_text() == "mine"


def test_the_error_of_the_only_image_names_it(tmp_path):
    """Decoding knows the bytes only."""
    image = two_images(tmp_path)[0]
    Path(image.path).write_bytes(Path(image.path).read_bytes()[:40])
    with pytest.raises(ImageError) as error:
        draw_masks(NoSegmenter(), [MaskJob(image, tmp_path / "out.png")], how="none, exact, cpu")
    assert str(error.value).startswith(f"{tmp_path}/a.png: damaged or cut off PNG file")
    assert not (tmp_path / "out.png").exists()
