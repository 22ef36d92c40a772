"""Count the words of one text file: `python3 count.py TEXT OUTPUT.json`. Standard library only.

With FAIL_ONCE_URL in its environment it fails on its first run, on purpose: the URL (signed, of a file in the account's
storage) is where it remembers that there has been one. The service runs it again, on any node.
"""

import collections
import json
import os
import re
import sys
import urllib.error
import urllib.request

EXIT_ON_PURPOSE = 17


def words(text: str) -> "collections.Counter[str]":
    """How often each word is in the text, in lower case. A word is letters, with ' and - inside."""
    return collections.Counter(re.findall(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*", text.lower()))


def fail_once(url: str) -> None:
    """Exit with EXIT_ON_PURPOSE unless this has been called with the URL before."""
    if exists(url):
        return
    request = urllib.request.Request(url, b"1", {"x-ms-blob-type": "BlockBlob"}, method="PUT")
    urllib.request.urlopen(request, timeout=60).close()
    sys.stderr.write("this run fails on purpose; the next one will not\n")
    sys.exit(EXIT_ON_PURPOSE)


def exists(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=60).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise
        return False
    return True


def main() -> None:
    source, output = sys.argv[1:]
    url = os.environ.get("FAIL_ONCE_URL")
    if url:
        fail_once(url)
    with open(source, encoding="utf-8", errors="replace") as file:
        counts = words(file.read())
    with open(output, "w", encoding="utf-8") as file:
        json.dump(counts, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
