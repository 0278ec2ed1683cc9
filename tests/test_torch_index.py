"""`make install` without a GPU: PyTorch's CPU build if its index answers in time, else the default build; tried against a local index."""

import importlib.util
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "torch_index.py"
PINS = ["torch==2.14.1", "torchvision==0.29.1"]
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("torch_index", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Index(BaseHTTPRequestHandler):
    """`/good/NAME/` lists the wheels as PyTorch's index does; `/old/`: without torchvision's; `/slow/`: one byte every 0.1 s; else status 404."""

    def do_GET(self) -> None:
        kind, name = self.path.strip("/").split("/")
        version = {"torch": "2.14.1", "torchvision": "0.29.1" if kind != "old" else "0.29.0"}[name]
        wheel = f"{name}-{version}%2Bcpu-{TAG}-{TAG}-manylinux_2_28_{platform.machine()}.whl"
        page = f'<html><body><a href="/whl/cpu/{wheel}#sha256=00">{wheel.replace("%2B", "+")}</a></body></html>'
        self.send_response(200 if kind in ("good", "old", "slow") else 404)
        self.end_headers()
        try:
            for letter in page if kind == "slow" else [page]:
                self.wfile.write(letter.encode())
                self.wfile.flush()
                if kind == "slow":
                    time.sleep(0.1)
        except OSError:
            pass  # the script has left

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_index_with_both_wheels_is_used(script: ModuleType, address: str) -> None:
    assert script.reason_against(f"{address}/good", PINS, 5) == ""


@pytest.mark.parametrize(
    ("kind", "reason"), [("old", "does not list torchvision==0.29.1 for this Python"), ("absent", "cannot be used (HTTPError)")]
)
def test_an_index_without_them_is_not(script: ModuleType, address: str, kind: str, reason: str) -> None:
    assert reason in script.reason_against(f"{address}/{kind}", PINS, 5)


def test_a_slow_index_is_left_in_time_though_it_sends_a_little_now_and_then(script: ModuleType, address: str) -> None:
    start = time.monotonic()
    assert "did not answer within 0.5 s" in script.reason_against(f"{address}/slow", PINS, 0.5)
    assert time.monotonic() - start < 2


def test_a_refused_connection(script: ModuleType) -> None:
    assert "cannot be used (URLError)" in script.reason_against("http://127.0.0.1:9", PINS, 5)


def test_other_pythons_and_machines_do_not_count(script: ModuleType) -> None:
    page = f"torch-2.14.1+cpu-{TAG}-{TAG}-manylinux_2_28_{platform.machine()}.whl"
    assert script.lists_wheel(page, "torch", "2.14.1")
    assert not script.lists_wheel(page.replace(TAG, "cp27"), "torch", "2.14.1")
    assert not script.lists_wheel(page.replace(platform.machine(), "m68k"), "torch", "2.14.1")
    assert not script.lists_wheel(page, "torch", "2.14")
    assert not script.lists_wheel(page.replace("+cpu", ""), "torch", "2.14.1")


@pytest.mark.parametrize(
    ("system", "gpu", "option", "line"),
    [
        ("Linux", False, "--extra-index-url INDEX\n", "PyTorch: the CPU build from INDEX, because there is no NVIDIA GPU\n"),
        ("Linux", True, "", "PyTorch: the default build, because there is an NVIDIA GPU\n"),
        ("Darwin", False, "", ""),
    ],
)
def test_option_and_line(
    script: ModuleType,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    system: str,
    gpu: bool,
    option: str,
    line: str,
) -> None:
    index = f"{address}/good"
    monkeypatch.setattr(script.platform, "system", lambda: system)
    monkeypatch.setattr(script, "has_gpu", lambda: gpu)
    monkeypatch.setattr(sys, "argv", ["torch_index.py", *PINS, "--index", index])
    script.main()
    out, err = capsys.readouterr()
    assert (out, err) == (option.replace("INDEX", index), line.replace("INDEX", index))


def _install_command(*given: str, **environment: str) -> str:
    """What `make install` would run for PyTorch."""
    found = subprocess.run(
        ["make", "-n", "-B", "install", "VENV=nowhere", *given],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return next(line for line in found.stdout.splitlines() if "torch" in line)


def test_make_asks_for_the_index_only_with_its_own_pins() -> None:
    path = "/usr/local/bin:/usr/bin:/bin"
    assert _install_command(PATH=path).endswith(
        f"install --quiet {' '.join(PINS)} $(nowhere/bin/python .ci/torch_index.py {' '.join(PINS)})"
    )
    assert _install_command("TORCH=torch==9", PATH=path).rstrip().endswith("install --quiet torch==9")
    assert _install_command(PATH=path, TORCH="torch==8").rstrip().endswith("install --quiet torch==8")
