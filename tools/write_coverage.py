"""Write docs/reference/coverage.md: what of the Batch service is served. With `--check` only see whether it is as it
would be written."""

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from millpond.api.coverage import page  # noqa: E402

PAGE: Final = ROOT / "docs" / "reference" / "coverage.md"


def main() -> int:
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    print(f"{PAGE.name} is not what the tables say: run python tools/write_coverage.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
