"""Pictures of the status page for the docs: `make screenshots`. Three states, three widths, light and dark."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser

from tests.rig.browser import chromium
from tests.web.scenes import SCENES, shown

WIDTHS = {"desktop": 1280, "tablet": 820, "phone": 390}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def take(browser: Browser, url: str, folder: Path, scene: str) -> None:
    for scheme in SCHEMES:
        page = browser.new_page(color_scheme=scheme, reduced_motion="reduce")
        page.goto(url)
        page.locator(".link.live").wait_for()
        page.locator("#version:not(:empty)").wait_for(state="attached")
        for name, width in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": 800})
            file = folder / f"page-{scene}-{name}-{scheme}.png"
            page.screenshot(path=file, full_page=True)
            subprocess.run(["pngquant", "--force", "--ext", ".png", "--speed", "1", "128", file], check=True)
        page.close()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for scene in SCENES:
            with tempfile.TemporaryDirectory(prefix="axom-") as home, shown(Path(home), scene) as url:
                take(browser, url, folder, scene)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
