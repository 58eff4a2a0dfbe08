"""A page as a browser without a window shows it: its document, errors on its console, and its requests."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr", "--window-size=1000,1400",
)  # fmt: skip


@dataclass(frozen=True)
class Rendered:
    """What a browser made of a page.

    Attributes:
        dom: the document after its scripts ran.
        console: the lines of its console.
        requests: the addresses that it loaded, or tried to.
    """

    dom: str
    console: list[str]
    requests: list[str]


def browser() -> str:
    """The browser; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no chromium is installed (Debian: apt-get install --no-install-recommends chromium)")
    return found


def run(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Opens the page with more options; `folder` is for files of the browser."""
    profile = folder / "profile"
    command = [browser(), *_OPTIONS, f"--user-data-dir={profile}", *options, page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def render(page: Path, folder: Path) -> Rendered:
    """The page after its scripts ran."""
    log = folder / "net.json"
    done = run(page, folder, f"--log-net-log={log}", "--virtual-time-budget=2000", "--dump-dom")
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    events = json.loads(log.read_text())["events"]
    params = [one.get("params") or {} for one in events]
    # A browser's own requests, such as for the time, have no origin.
    requests = {one["url"] for one in params if one.get("initiator", "not an origin") != "not an origin"}
    return Rendered(done.stdout, console, sorted(requests))


def screenshot(page: Path, picture: Path, folder: Path, *options: str) -> None:
    """Saves a picture of the page's top."""
    run(page, folder, f"--screenshot={picture}", *options)
