"""The plain way: one requests session, one file after the other; run with a file of addresses and a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import requests


def main(urls: Path, out: Path) -> None:
    """Fetch every address into a file of its own."""
    with requests.Session() as session:
        for number, url in enumerate(urls.read_text().split()):
            with session.get(url, stream=True) as answer, (out / f"{number:08d}").open("wb") as file:
                answer.raise_for_status()
                for chunk in answer.iter_content(1 << 20):
                    file.write(chunk)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
