"""The benchmarks' instructions work as written, as far as that takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import samdiff

ROOT = Path(samdiff.__file__).resolve().parent


def run(*command: object, **environment: str) -> str:
    """stdout of a child without this process' PYTHONPATH, as a user's shell has none; its stderr if it fails."""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=plain | environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_peers_environment_imports_samdiff_and_the_shared_packages(tmp_path):
    """`loader.py --make-peer` (without pip here), then what its child processes do first: import the loaders, and samdiff with PyTorch."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import argparse, loader
from pathlib import Path
python = loader.make_peer("mosaicml", Path({str(tmp_path / "peers")!r}), with_pip=False)
loader.__file__ = {str(tmp_path / "child.py")!r}
arguments = argparse.Namespace(store="s.zarr", work=Path({str(tmp_path / "work")!r}), seconds=1.0)
print(python)
print(loader.child(python, "mosaicml", "--measure", arguments))
"""
    (tmp_path / "child.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "import peers, samdiff, torch\n"
        "print(samdiff.ShardDataset.__name__, samdiff.__file__, sys.prefix != sys.base_prefix, sys.argv[-2:])\n"
    )
    link = tmp_path / "import"
    link.mkdir()
    (link / "samdiff").symlink_to(ROOT)  # this environment may not have samdiff installed
    python, line = run(sys.executable, "-c", code, PYTHONPATH=str(link)).splitlines()[-2:]
    assert python == str(tmp_path / "peers/mosaicml/bin/python")
    assert line.startswith(f"ShardDataset {tmp_path / 'work/import/samdiff/__init__.py'} True ['--measure', 'mosaicml']")
