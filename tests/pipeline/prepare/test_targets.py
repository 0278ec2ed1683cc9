"""Nothing that is not ours is ever touched: targets, staging places, locks, home folders; and a finished store is never replaced."""

import json
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from samdiff import open_store
from samdiff.cli import main
from samdiff.errors import BusyError, ConfigError, SamdiffError, StoreError
from samdiff.pipeline.prepare import run as prepare_module
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.staging import Staging
from samdiff.pipeline.shards.verify import verify_store
from samdiff.pipeline.shards.writer import StoreWriter, store_keys
from samdiff.pipeline.storage.atomic import partial_of, sweep_partial
from samdiff.pipeline.storage.local import LocalStore, key_store_at
from samdiff.pipeline.storage.lock import drop_lock, take_lock
from samdiff.runtime import cache_dir, user_path

from ..shards.test_store import SIZES
from .test_prepare import PositionMasks, position_image, write

SETTINGS = PrepareConfig(scale=4, tile=64)
PARTIAL = f"{7:032x}.partial"


@pytest.fixture
def photos(tmp_path) -> Path:
    write(tmp_path / "photos" / "a.png", position_image(64, 68, 10))
    write(tmp_path / "photos" / "b.png", position_image(72, 64, 20))
    return tmp_path / "photos"


def snapshot(root: Path) -> dict[str, object]:
    """Everything below a folder: links as their targets, folders, files' bytes."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            key = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[key] = os.readlink(path)
            else:
                found[key] = path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else stat.S_IFMT(path.lstat().st_mode)
    return found


def half_written(photos: Path, out: Path) -> None:
    """Leave an unfinished store with its staging place, as a killed writer does."""

    class DiedError(Exception):
        pass

    real, count = LocalStore.set, [0]

    def dying(self, key, value):
        count[0] += self.root == out
        if count[0] > 40:
            raise DiedError
        real(self, key, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "set", dying)
        with pytest.raises(DiedError):
            prepare(photos, out, PositionMasks(), SETTINGS)
    assert (out / "images/zarr.json").exists()


FOREIGN: dict[str, Callable[[Path], object]] = {
    "images/0001.png": lambda out: write(out / "images/0001.png", position_image(64, 64, 1)),
    "masks/a.json": lambda out: (mkdir(out / "masks") / "a.json").write_text("mine"),
    "images": lambda out: mkdir(out / "images"),
    "empty": lambda out: mkdir(out / "empty"),
    ".git": lambda out: (mkdir(out / ".git") / "HEAD").write_text("mine"),
    ".keep": lambda out: (out / ".keep").touch(),
    "deep": lambda out: (mkdir(out / "tiles/hr/c/0/0/0") / "mine").write_text("mine"),
    "store's name": lambda out: (mkdir(out / "images/name") / "zarr.json").write_text("mine"),
    "partial": lambda out: (out / ".a.png.0.partial").write_text("mine"),
    "exact partial": lambda out: (out / f".a.png.{PARTIAL}").write_text("mine"),
    "link": lambda out: (out / "images").symlink_to(mkdir(out.parent / "elsewhere"), target_is_directory=True),
    "link to a file": lambda out: (out / "zarr.json").symlink_to("nowhere"),
    "pipe": lambda out: os.mkfifo(out / "zarr.json"),
}


def mkdir(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("begun", [False, True], ids=["new", "unfinished"])
def test_anything_foreign_in_the_target_is_refused(kind, begun, photos, tmp_path):
    """At any depth, by a store's own names, hidden, a link: refused, and not a byte changed; also beside an unfinished write of ours."""
    out = tmp_path / "ds"
    if begun:
        half_written(photos, out)
        if kind in ("images", "deep", "store's name"):
            return  # ours, or below ours
        if (out / "images").exists() and kind == "link":
            (out / "images").rename(tmp_path / "moved")
    mkdir(out)
    FOREIGN[kind](out)
    before = snapshot(tmp_path)
    with pytest.raises(StoreError, match=r"ds: holds files that are not a store's \(|link|ds: "):
        prepare(photos, out, PositionMasks(), SETTINGS)
    assert snapshot(tmp_path) == before


def test_an_unfinished_store_goes_on_and_what_came_into_it_is_named(photos, tmp_path):
    """Ours are the keys that the staging lists; with the list lost, nothing is."""
    whole, out = tmp_path / "whole.zarr", tmp_path / "x.zarr"
    prepare(photos, whole, PositionMasks(), SETTINGS)
    half_written(photos, out)
    (out / "tiles/hr/c/0/0/0").mkdir(parents=True, exist_ok=True)
    (out / "tiles/hr/c/0/0/0/mine.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"not a store's \(tiles/hr/c/0/0/0/mine\.txt\)"):
        prepare(photos, out, PositionMasks(), SETTINGS)
    (out / "tiles/hr/c/0/0/0/mine.txt").unlink()
    (out / "tiles/hr/c/0/0/0" / f".0.{PARTIAL}").write_bytes(b"half")
    writing = tmp_path / "x.zarr.staging/writing.json"
    kept = writing.read_bytes()
    writing.unlink()
    with pytest.raises(StoreError, match=r"not a store's \(images/"):
        prepare(photos, out, PositionMasks(), SETTINGS)
    for bad in (b"{", b'"x"', b'["../../thesis.txt"]', b'["/etc/passwd"]', b"[1]"):
        writing.write_bytes(bad)
        with pytest.raises(StoreError, match=r"writing\.json: damaged"):
            prepare(photos, out, PositionMasks(), SETTINGS)
    writing.write_bytes(kept)
    prepare(photos, out, again := PositionMasks(), SETTINGS)
    assert again.seen == []
    assert snapshot(out) == snapshot(whole)


def test_the_systems_hidden_files_stay(photos, tmp_path):
    """`.DS_Store` in the target and in the staging place: neither refused nor removed; verify does not call it foreign."""
    out = mkdir(tmp_path / "x.zarr")
    for folder in (out, mkdir(tmp_path / "x.zarr.staging")):
        (folder / ".DS_Store").write_text("the system's")
    prepare(photos, out, PositionMasks(), SETTINGS)
    assert (out / ".DS_Store").read_text() == (tmp_path / "x.zarr.staging/.DS_Store").read_text() == "the system's"
    assert [path.name for path in (tmp_path / "x.zarr.staging").iterdir()] == [".DS_Store"]
    assert verify_store(out) == []


@pytest.mark.parametrize(
    ("source", "out", "says"),
    [
        ("ds/images", "ds", "holds the source"),
        ("ds", "ds", "is the source itself"),
        ("ds", "ds/x.zarr", "lies inside the source"),
        ("ds/images/a.png", "ds", "holds the source"),
        ("link", "ds", "holds the source"),
        ("ds", "link/x.zarr", "lies inside the source"),
        ("x.zarr.staging/a", "x.zarr", "holds the source"),
    ],
)
def test_source_and_target_lie_apart(source, out, says, tmp_path):
    """Neither holds the other, whatever links lead there; as LR, too."""
    for folder in ("ds/images", "x.zarr.staging/a"):
        write(tmp_path / folder / "a.png", position_image(64, 64, 1))
    (tmp_path / "link").symlink_to(tmp_path / "ds/images")
    write(tmp_path / "apart/a.png", position_image(64, 64, 1))
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match=says):
        prepare(tmp_path / source, tmp_path / out, PositionMasks(), SETTINGS)
    given = PrepareConfig(tile=64, degradation="given")
    with pytest.raises(ConfigError, match=says):
        prepare([tmp_path / "apart"], tmp_path / out, PositionMasks(), given, lr=[tmp_path / source])
    assert snapshot(tmp_path) == before


def test_a_staging_place_that_is_not_ours(photos, tmp_path):
    """A link, a file, somebody's folder, somebody's settings, foreign files among ours: refused, nothing touched."""
    out, staging = tmp_path / "x.zarr", tmp_path / "x.zarr.staging"
    mine = mkdir(tmp_path / "mine")
    (mine / "thesis.txt").write_text("years of work")
    record = f"images/{'a' * 64}.npz"

    def file(name: str, text: str = "mine") -> None:
        (mkdir((staging / name).parent) / Path(name).name).write_text(text)

    cases: dict[str, Callable[[], object]] = {
        "a link": lambda: staging.symlink_to(mine, target_is_directory=True),
        "got a file": lambda: staging.write_text("mine"),
        "thesis.txt": lambda: file("thesis.txt"),
        r"images/": lambda: file(record),
        "not written by samdiff": lambda: file("settings.json", "{}"),
        r"settings\.json \(a link\)": lambda: mkdir(staging) and (staging / "settings.json").symlink_to(mine / "thesis.txt"),
    }
    for says, make in cases.items():
        make()
        before = snapshot(tmp_path)
        with pytest.raises(StoreError, match=says):
            prepare(photos, out, PositionMasks(), SETTINGS)
        assert snapshot(tmp_path) == before
        staging.rename(tmp_path / f"kept {len(before)}")
    with pytest.raises(KeyboardInterrupt):
        prepare(photos, out, PositionMasks(fail_after=1), SETTINGS)
    file("images/mine.npz")
    with pytest.raises(StoreError, match=r"did not write \(images/mine\.npz\)"):
        prepare(photos, out, PositionMasks(), SETTINGS)
    (staging / "images/mine.npz").rename(tmp_path / "mine.npz")
    prepare(photos, out, PositionMasks(), SETTINGS)
    assert not staging.exists()


def test_what_came_into_the_staging_place_meanwhile_stays(photos, tmp_path, caplog):
    """The records go, the user's file does not, and it is named."""

    class Meanwhile(PositionMasks):
        def generate_batch(self, images):
            (tmp_path / "x.zarr.staging/notes.txt").write_text("mine")
            yield from super().generate_batch(images)

    prepare(photos, tmp_path / "x.zarr", Meanwhile(), SETTINGS)
    assert snapshot(tmp_path / "x.zarr.staging") == {"notes.txt": b"mine"}
    assert "notes.txt" in caplog.text
    assert prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS).already_complete


def test_a_finished_store_is_never_replaced(photos, tmp_path, monkeypatch):
    """A second run with other settings that planned before the first one's commit: under its lock it sees the finished store."""
    out, other = tmp_path / "x.zarr", PrepareConfig(scale=2, tile=64)
    real = prepare_module.scan

    def slow(*arguments, **options):
        found = real(*arguments, **options)
        monkeypatch.setattr(prepare_module, "scan", real)
        prepare(photos, out, PositionMasks(), SETTINGS)  # begins and ends while the other one scans
        return found

    monkeypatch.setattr(prepare_module, "scan", slow)
    with pytest.raises(StoreError, match="scale: was 4, now 2"):
        prepare(photos, out, PositionMasks(), other)
    assert open_store(out).scale == 4
    assert verify_store(out) == []
    assert not (tmp_path / "x.zarr.staging").exists()


def test_the_lock_is_held_to_the_end(photos, tmp_path, monkeypatch):
    """While the staging place is being removed the lock is still held; where locks do not reach, the commit looks again."""
    out, tried = tmp_path / "x.zarr", []
    real = LocalStore.delete

    def delete(self, key):
        real(self, key)
        if self.root.name.endswith(".staging") and not tried:
            tried.append(key)
            with pytest.raises(BusyError):
                Staging(out).open()

    monkeypatch.setattr(LocalStore, "delete", delete)
    prepare(photos, out, PositionMasks(), SETTINGS)
    assert tried
    assert not (tmp_path / "x.zarr.staging").exists()
    with pytest.raises(StoreError, match="expected nothing or an empty folder"):
        StoreWriter(LocalStore(out), SIZES)
    writer = StoreWriter(LocalStore(tmp_path / "y.zarr"), {**SIZES, "N": 0, "M": 0, "I": 0, "R": 0, "B": 0})
    (tmp_path / "y.zarr/zarr.json").write_text("another's")
    monkeypatch.setattr("samdiff.pipeline.shards.writer._Column.take", lambda *_: [])
    monkeypatch.setattr("samdiff.pipeline.shards.writer._Column.done", 0, raising=False)
    writer._columns = {}
    with pytest.raises(StoreError, match="another process finished a store there"):
        writer.commit({})
    assert (tmp_path / "y.zarr/zarr.json").read_text() == "another's"


def test_a_lock_that_was_removed_while_another_waited(tmp_path):
    """Who locked a file that is no longer there takes the new one: two never have the lock of one name."""
    path = tmp_path / "s" / "lock"
    first = take_lock(path, "x", "samdiff prepare")
    assert path.read_text().startswith(f"process {os.getpid()} on ")
    with pytest.raises(BusyError, match=f"process {os.getpid()} on "):
        take_lock(path, "x", "samdiff prepare")
    drop_lock(first, path)
    assert not path.exists()
    second = take_lock(path, "x", "samdiff prepare")
    with pytest.raises(BusyError):
        take_lock(path, "x", "samdiff prepare")
    path.unlink()  # by somebody else
    third = take_lock(path, "x", "samdiff prepare")
    drop_lock(second, path)  # no longer its own
    assert path.exists()
    third.close()


def test_a_folder_that_goes_while_its_lock_is_made(tmp_path, monkeypatch):
    """Another process removes the folder between our steps, in each of them: tried again."""
    path, real, gone = tmp_path / "s" / "lock", os.mkdir, []

    def mkdir(folder, *mode):
        if len(gone) < 2:
            gone.append(folder)
            if len(gone) == 1:
                raise FileExistsError(17, "File exists", folder)  # it was there, and is not any more
            return  # it was made, and is gone again
        real(folder, *mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    take_lock(path, "x", "samdiff prepare").close()
    assert len(gone) == 2
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot be written"):
        take_lock(tmp_path / "file" / "lock", "x", "samdiff prepare")


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "text", "two lines", "large", "pipe"])
def test_a_lock_file_that_is_not_ours_is_left_alone(kind, tmp_path):
    """A link is not followed, no file of other content is truncated, nothing hangs."""
    path, mine = tmp_path / "lock", tmp_path / "mine.txt"
    mine.write_text("years of work")
    {
        "link": lambda: path.symlink_to(mine),
        "dangling link": lambda: path.symlink_to(tmp_path / "new"),
        "folder": path.mkdir,
        "text": lambda: path.write_text("years of work"),
        "two lines": lambda: path.write_text("process 7 on host\nmine"),
        "large": lambda: path.write_text("process 7 on " + "x" * 5000),
        "pipe": lambda: os.mkfifo(path),
    }[kind]()
    before = snapshot(tmp_path)
    with pytest.raises(StoreError, match="expected a lock file of samdiff or nothing, got a"):
        take_lock(path, "x", "samdiff prepare")
    assert snapshot(tmp_path) == before


def test_no_space_for_the_lock(tmp_path):
    """One error that says what to do (a limit on file sizes stands for a full disk), and the lock can be taken later."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(StoreError, match="lock: cannot be written: File too large; raise the limit"):
            take_lock(tmp_path / "lock", "x", "samdiff prepare")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    take_lock(tmp_path / "lock", "x", "samdiff prepare").close()


def test_home_folders(tmp_path, monkeypatch, photos):
    """`~/x` is in the home folder, in every location of a store; `~nobody` is one error, in SAMDIFF_CACHE, too."""
    monkeypatch.setenv("HOME", str(mkdir(tmp_path / "home")))
    monkeypatch.chdir(mkdir(tmp_path / "work"))
    prepare(photos, "~/x.zarr", PositionMasks(), SETTINGS)
    assert len(open_store("~/x.zarr")) == len(open_store(Path("~/x.zarr"))) == len(open_store("file://~/x.zarr")) > 0
    assert list((tmp_path / "work").iterdir()) == []
    assert user_path("./~x") == Path("./~x")
    for location in ("~nosuchuser", "~nosuchuser/x.zarr", Path("~nosuchuser/x.zarr")):
        with pytest.raises(
            ConfigError, match=r"got ~nosuchuser, and there is no such user's home folder; write the whole path"
        ):
            key_store_at(location)
    monkeypatch.setenv("SAMDIFF_CACHE", "~nosuchuser")
    with pytest.raises(ConfigError, match="SAMDIFF_CACHE: ~nosuchuser: expected a folder"):
        cache_dir()
    for words in (["weights", "vit_b"], ["download", "div2k", "--downloads", "~nosuchuser/x"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2


def test_odd_targets(tmp_path, monkeypatch, photos):
    """`.`, `..`, `/`, nothing, a link to a folder, a dangling link, a folder inside another store, a bucket alone."""
    monkeypatch.chdir(mkdir(tmp_path / "a/b"))
    prepare(photos, ".", PositionMasks(), SETTINGS)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b"]
    assert len(open_store(".")) == len(open_store(tmp_path / "a/b")) > 0
    with pytest.raises(StoreError, match=r"holds files that are not a store's \(b/\)"):
        prepare(photos, "..", PositionMasks(), SETTINGS)
    (tmp_path / "x.zarr").symlink_to(mkdir(tmp_path / "disk/real.zarr"))
    assert Staging(tmp_path / "x.zarr").place.root == tmp_path / "disk/real.zarr.staging"
    prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for out, says in (
        ("/", "got the root of a disk"),
        ("", "got an empty name"),
        ("x\0y", r"x\\x00y: cannot be a file or folder here"),
        ("s3://", "got no name in it"),
        ("s3://bucket", "got only a bucket"),
        (tmp_path / "a/b/tiles/y.zarr", r"lies inside the store .*b, where no other files are allowed"),
        (tmp_path / "dangling", "got a broken link"),
    ):
        with pytest.raises(SamdiffError, match=says):
            prepare(photos, out, PositionMasks(), SETTINGS)


def test_a_url_that_holds_something_else(photos, tmp_path, monkeypatch):
    """The same law for objects: what a killed writer left is ours by its list, nothing else is."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    place = key_store_at("memory://mine/ds")
    place.set("images/0001.png", b"mine")
    with pytest.raises(StoreError, match=r"not a store's \(images/0001\.png\)"):
        prepare(photos, "memory://mine/ds", PositionMasks(), SETTINGS)
    staging = key_store_at("memory://mine/x.zarr.staging")
    staging.set("thesis.txt", b"mine")
    with pytest.raises(StoreError, match=r"did not write \(thesis\.txt\)"):
        prepare(photos, "memory://mine/x.zarr", PositionMasks(), SETTINGS)
    assert place.get("images/0001.png") == staging.get("thesis.txt") == b"mine"
    staging.delete("thesis.txt")
    prepare(photos, "memory://mine/x.zarr", PositionMasks(), SETTINGS)
    assert list(staging.list_keys()) == []
    assert list((tmp_path / "cache/locks").iterdir()) == []


def test_only_exact_partial_files_are_swept(tmp_path):
    """Names that `write_atomic` gives, plain files, no folders, nothing behind a link."""
    behind = mkdir(tmp_path / "behind")
    kept = [".x.partial", ".x.0.partial", f".x.{'G' * 32}.partial", f"x.{PARTIAL}", f".{PARTIAL}", f".x.{7:033x}.partial"]
    root = mkdir(tmp_path / "root")
    for name in kept:
        (root / name).write_text("mine")
    (behind / f".x.{PARTIAL}").write_text("mine")
    (root / "linked").symlink_to(behind, target_is_directory=True)
    (root / f".link.{PARTIAL}").symlink_to(behind)
    mkdir(root / f".folder.{PARTIAL}")
    before = snapshot(tmp_path)
    (mkdir(root / "deep") / f".a.npz.{PARTIAL}").write_text("half")
    (root / f".y.{PARTIAL}").write_text("half")
    assert sweep_partial(root, ours=lambda key: key == "deep/a.npz") == 1
    assert sweep_partial(root, below=False) == 1
    (root / "deep").rmdir()
    assert snapshot(tmp_path) == before
    assert partial_of(f"deep/.a.npz.{PARTIAL}") == "deep/a.npz"


def test_the_keys_of_a_store(photos, tmp_path):
    """`store_keys` names every file that is written; and the target's file that is neither is left to the user."""
    prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    store = open_store(tmp_path / "x.zarr")
    assert set(LocalStore(tmp_path / "x.zarr").list_keys()) <= store_keys(store.sizes)
    assert json.loads(json.dumps(sorted(store_keys(store.sizes))))
