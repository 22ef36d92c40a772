"""What waits to be told to one node: directives in order of revision, kept until the node says it has seen them."""

from collections.abc import Callable

from millpond.protocol.messages import Directive, FileRequest, LaunchRequest


def _nobody() -> None:
    pass


class Outbox:
    """The directives and requests for one node."""

    __slots__ = (
        "_answers_due",
        "_file_requests",
        "_is_open",
        "_launch_requests",
        "_on_news",
        "_pending",
        "revision",
        "sent",
    )

    def __init__(self, on_news: Callable[[], None] = _nobody) -> None:
        """`on_news` is called when there is something to send and there was nothing before, and for each request."""
        self._on_news = on_news
        self.revision = 0
        """Of the last directive put in since the session began."""
        self.sent = 0
        """The highest revision that has gone out in some answer."""
        self._is_open = True
        self._pending: list[Directive] = []
        self._file_requests: list[FileRequest] = []
        self._launch_requests: list[LaunchRequest] = []
        self._answers_due = 0
        """Answers that go out as soon as what the node reported is on disk: they take all directives there are."""

    def reset(self) -> None:
        """A new session begins: nothing is pending, revisions start again. What is put in before `open` is dropped."""
        self._is_open = False
        self.revision = self.sent = 0
        self._pending.clear()

    def open(self) -> None:
        """The scheduler has compared what the node holds with what it should hold: directives from here on count."""
        self._is_open = True

    def next_revision(self) -> int:
        """The revision for the directive about to be `put`."""
        return self.revision + 1

    def put(self, directive: Directive) -> None:
        if self._is_open:
            is_first = self.revision == self.sent
            self.revision = directive.revision
            self._pending.append(directive)
            if is_first and not self._answers_due:
                self._on_news()

    def ask(self, request: FileRequest) -> None:
        """Hand a file request to the next answer. It goes out once."""
        self._file_requests.append(request)
        self._on_news()

    def launch(self, request: LaunchRequest) -> None:
        """The same for a launch request."""
        self._launch_requests.append(request)
        self._on_news()

    def expect_answer(self) -> None:
        """Reports of the node are being taken in: the answer to them brings the directives that follow, so whoever
        listens for the node does not hear of them too. `answered` comes after it."""
        self._answers_due += 1

    def answered(self) -> None:
        self._answers_due -= 1
        if self.has_news:
            self._on_news()

    def seen(self, revision: int) -> None:
        """The node has taken in all directives up to that revision."""
        pending = self._pending
        if pending and pending[0].revision <= revision:
            if pending[-1].revision <= revision:
                pending.clear()
            else:
                self._pending = [directive for directive in pending if directive.revision > revision]

    @property
    def has_requests(self) -> bool:
        return bool(self._file_requests or self._launch_requests)

    @property
    def has_news(self) -> bool:
        """There is something that has never gone out, and that no answer will bring that is due anyway."""
        return (self.revision > self.sent and not self._answers_due) or self.has_requests

    @property
    def has_unseen(self) -> bool:
        return bool(self._pending)

    def repeat(self) -> None:
        """What is unseen is to go out again."""
        if self._pending:
            self.sent = self._pending[0].revision - 1

    def take(self) -> tuple[tuple[Directive, ...], tuple[FileRequest, ...]]:
        """All unseen directives, and the file requests not sent yet.

        Always all: an answer that left out what an earlier one carries would, arriving first, have the node skip it.
        """
        requests: tuple[FileRequest, ...] = ()
        if self._file_requests:
            requests = tuple(self._file_requests)
            self._file_requests.clear()
        self.sent = self.revision
        return tuple(self._pending), requests

    def take_launches(self) -> tuple[LaunchRequest, ...]:
        """The launch requests not sent yet."""
        if not self._launch_requests:
            return ()
        requests = tuple(self._launch_requests)
        self._launch_requests.clear()
        return requests
