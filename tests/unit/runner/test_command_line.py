"""Command lines to argument vectors."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.agent.runner.command_line import split_command_line
from millpond.domain.errors import TaskFailure, TaskFailureCode


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("true", ("true",)),
        ("  echo   a\tb \n c ", ("echo", "a", "b", "c")),
        ("/bin/bash -c 'echo $HOME | wc -c'", ("/bin/bash", "-c", "echo $HOME | wc -c")),
        ('/bin/sh -c "echo \\"quoted\\" text"', ("/bin/sh", "-c", 'echo "quoted" text')),
        (r"echo a\ b \\ \'", ("echo", "a b", "\\", "'")),
        ("echo '' \"\"", ("echo", "", "")),
        ("echo pre'fix and'post", ("echo", "prefix andpost")),
        ("echo $HOME *.txt > out; ls &", ("echo", "$HOME", "*.txt", ">", "out;", "ls", "&")),
        ("echo # no comment", ("echo", "#", "no", "comment")),
        ("echo a\u00a0b", ("echo", "a\u00a0b")),
    ],
)
def test_split(text: str, words: tuple[str, ...]) -> None:
    assert split_command_line(text) == words


@pytest.mark.parametrize("text", ["", "   \t\n", "''", '""  x', "echo 'open", 'echo "open', "echo \\", "echo a\0b"])
def test_what_is_no_command(text: str) -> None:
    with pytest.raises(TaskFailure) as caught:
        split_command_line(text)
    assert caught.value.code is TaskFailureCode.COMMAND_LAUNCH_FAILED
    assert caught.value.user_error


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), min_size=1))
def test_what_is_quoted_comes_back(words: list[str]) -> None:
    if words[0]:
        assert split_command_line(shlex.join(words)) == tuple(words)


@given(st.text("abc \t\n$*;|&<>#~\u00a0\u2003"))
def test_the_quick_way_is_the_careful_way(text: str) -> None:
    words = tuple(shlex.split(text))
    if words:
        assert split_command_line(text) == words
