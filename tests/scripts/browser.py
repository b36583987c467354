"""A page as a real browser shows it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

PROBE = """<script>addEventListener('load', () => {
  const frame = document.querySelector('iframe'), page = frame.contentDocument;
  const images = [...page.images];
  document.body.textContent = 'width ' + page.documentElement.scrollWidth
    + ' broken ' + images.filter(image => !image.complete || !image.naturalWidth).length
    + ' loaded ' + frame.contentWindow.performance.getEntriesByType('resource').filter(
        entry => !entry.name.startsWith('data:')).length
    + ' paper ' + frame.contentWindow.getComputedStyle(page.body).backgroundColor.replaceAll(' ', '') + ' end';
});</script>"""


def opened(page: Path, folder: Path, width: int, *, dark: bool = False) -> dict[str, str]:
    """Open a page in a frame of this width, without a network.

    Returns:
        How wide its content is, how many pictures are broken, how many files it has loaded, and its background.
    """
    assert BROWSER is not None
    copy = folder / "copy.html"
    copy.write_text(page.read_text())
    probe = folder / "probe.html"
    probe.write_text(f'<!DOCTYPE html>{PROBE}<iframe src="copy.html" width="{width}" height="800"></iframe>')
    done = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    told = re.search(r"width (\d+) broken (\d+) loaded (\d+) paper (\S+) end", done.stdout)
    assert told, done.stdout[-2000:] + done.stderr[-2000:]
    return dict(zip(("width", "broken", "loaded", "paper"), told.groups(), strict=True))
