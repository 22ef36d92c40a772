"""The snippets of docs/how-to/sign-in.md run as they stand, one after the other in one shell."""

import re
from pathlib import Path

from tests.commands import REPOSITORY, read_aloud, reader
from tests.conftest import MillpondProcess

PAGE = REPOSITORY / "docs" / "how-to" / "sign-in.md"
SNIPPET = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_on_signing_in_runs(secured: MillpondProcess, tmp_path: Path) -> None:
    snippets = SNIPPET.findall(PAGE.read_text(encoding="utf-8"))
    said = read_aloud(*snippets, environment=reader(tmp_path, secured.data_dir), cwd=tmp_path)
    as_reader, told, as_submitter, made, jobs = said.splitlines()
    assert (as_reader, as_submitter) == ("[]", "[]")
    assert "create_job needs the role submitter" in told
    assert made == "made a job"
    assert jobs == "['mine']"
