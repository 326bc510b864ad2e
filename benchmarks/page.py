"""The table of the results in the documentation, as the recorded runs give it.

`python -m benchmarks.page` writes it anew. A run is recorded with the option --record of the benchmarks.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.figure import Run, as_json, from_json, table

RECORDED = Path(__file__).with_name("recorded")
"""A file for each benchmark."""
PAGE = Path(__file__).parents[1] / "docs/explanation/performance.md"
_BEGIN, _END = "<!-- results: written by benchmarks/page.py -->\n", "<!-- end of results -->\n"


def record(run: Run, directory: Path = RECORDED) -> None:
    """Keep a run in place of the one before of the same benchmark."""
    directory.mkdir(exist_ok=True)
    text = json.dumps(as_json(run), indent=1) + "\n"
    (directory / f"{run.benchmark}.json").write_text(text)


def recorded(files: Iterable[Path]) -> list[Run]:
    """The runs in the files: one run in each, or several."""
    runs = []
    for file in files:
        found = json.loads(file.read_text())
        runs += [from_json(each) for each in (found if isinstance(found, list) else [found])]
    return runs


def with_table(page: str, runs: Iterable[Run]) -> str:
    """The text of the page with the table of these runs between its markers."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {_BEGIN.strip()} and {_END.strip()}")
    return f"{before}{begin}\n{table(runs)}\n\n{end}{after}"


def written() -> str:
    """The page as the recorded runs give it."""
    return with_table(PAGE.read_text(), recorded(sorted(RECORDED.glob("*.json"))))


if __name__ == "__main__":
    PAGE.write_text(written())
