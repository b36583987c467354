"""A page as a real browser shows it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

LOOKS = """
  width: page.documentElement.scrollWidth,
  broken: [...page.images].filter(image => !image.complete || !image.naturalWidth).length,
  loaded: window.performance.getEntriesByType('resource').filter(entry => !entry.name.startsWith('data:')).length,
  paper: window.getComputedStyle(page.body).backgroundColor,
"""
"""How wide a page's content is, how many pictures are broken, how many files it has loaded, and its background."""


def asked(page: Path, folder: Path, questions: str, width: int = 1200, *, dark: bool = False) -> dict[str, Any]:
    """Open a page in a frame, without a network, and ask it something.

    Args:
        page: The file.
        folder: An empty one.
        questions: What to answer, as the inside of an object in JavaScript, which knows `page` and `window`.
        width: Of the frame.
        dark: Whether its reader prefers dark pages.

    Returns:
        The answers.
    """
    assert BROWSER is not None
    shutil.copy(page, folder / "page.html")
    probe = folder / "probe.html"
    probe.write_text(
        f"""<!DOCTYPE html><iframe src="page.html" width="{width}" height="800"></iframe><script>
        addEventListener('load', () => {{
          const window = document.querySelector('iframe').contentWindow, page = window.document;
          const answers = JSON.stringify({{{questions}}});
          document.documentElement.innerHTML = '<body></body>';
          document.body.textContent = 'answers' + answers;
        }});</script>"""
    )
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([BROWSER, *options, probe.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    told = re.search(r"<body>answers(.*?)</body>", done.stdout, re.DOTALL)
    assert told, done.stdout[-2000:] + done.stderr[-2000:]
    answers: dict[str, Any] = json.loads(html.unescape(told[1]))
    return answers
