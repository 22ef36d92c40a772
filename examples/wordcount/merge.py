"""Add word counts together: `python3 merge.py COUNTS_DIRECTORY FILES OUTPUT.tsv`. Standard library only.

Fails unless the directory holds the counts of so many files.
"""

import collections
import json
import os
import sys


def main() -> None:
    directory, files, output = sys.argv[1:]
    names = sorted(os.listdir(directory))
    if len(names) != int(files):
        sys.exit(f"there are counts of {len(names)} files, not {files}")
    total: collections.Counter[str] = collections.Counter()
    for name in names:
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            total.update(json.load(file))
    with open(output, "w", encoding="utf-8") as out:
        out.writelines(
            f"{count}\t{word}\n" for word, count in sorted(total.items(), key=lambda item: (-item[1], item[0]))
        )


if __name__ == "__main__":
    main()
