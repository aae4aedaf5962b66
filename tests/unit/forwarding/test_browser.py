"""Links that are opened in a browser."""

import subprocess
import sys
from pathlib import Path

OPEN = """
import sys
from pathlib import Path
from dstack_cli.forwarding.browser import has_browser, opened
from dstack_mesh.home import Home

home = Home(Path(sys.argv[1]))
home.prepare()
assert has_browser()
with opened(home, "lab", "http://127.0.0.1:1/?token=secret"):
    print("goes on")
assert not list(home.sockets.glob("*.html"))
"""


def test_a_browser_that_cannot_start_does_not_end_the_command(tmp_path: Path) -> None:
    browser = tmp_path / "bin" / "firefox"
    browser.parent.mkdir()
    browser.write_bytes(b"\0")
    browser.chmod(0o755)
    ended = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "home")],
        env={"PATH": str(browser.parent), "DISPLAY": ":99"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.stdout, ended.returncode) == ("goes on\n", 0), ended.stderr
