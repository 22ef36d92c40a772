"""What waits to be told to one node: directives in order of revision, kept until the node says it has seen them."""

import asyncio

from millpond.protocol.messages import Directive, FileRequest, LaunchRequest


class Outbox:
    """The directives and requests for one node, and the parked sync that waits for them."""

    def __init__(self) -> None:
        self.revision = 0
        """Of the last directive put in since the session began."""
        self.sent = 0
        """The highest revision that has gone out in some answer."""
        self._is_open = True
        self._pending: list[Directive] = []
        self._file_requests: list[FileRequest] = []
        self._launch_requests: list[LaunchRequest] = []
        self._news = asyncio.Event()
        self._dismissals = 0
        """How often what was parked had to answer, news or none."""
        self._answers_due = 0
        """Answers that go out as soon as what the node reported is on disk: they take all directives there are."""

    def reset(self) -> None:
        """A new session begins: nothing is pending, revisions start again. What is put in before `open` is dropped."""
        self._is_open = False
        self.revision = self.sent = 0
        self._pending.clear()
        self.wake()

    def open(self) -> None:
        """The scheduler has compared what the node holds with what it should hold: directives from here on count."""
        self._is_open = True

    def next_revision(self) -> int:
        """The revision for the directive about to be `put`."""
        return self.revision + 1

    def put(self, directive: Directive) -> None:
        if self._is_open:
            self.revision = directive.revision
            self._pending.append(directive)
            if not self._answers_due:
                self._news.set()

    def ask(self, request: FileRequest) -> None:
        """Hand a file request to the next answer. It goes out once."""
        self._file_requests.append(request)
        self._news.set()

    def launch(self, request: LaunchRequest) -> None:
        """The same for a launch request."""
        self._launch_requests.append(request)
        self._news.set()

    def expect_answer(self) -> None:
        """Reports of the node are being taken in: the answer to them brings the directives that follow, so what is
        parked does not bring them too. `answered` comes after it."""
        self._answers_due += 1

    def answered(self) -> None:
        self._answers_due -= 1
        if not self._answers_due and self._pending:
            # Also when all of it goes with this answer: that may be lost.
            self._news.set()

    def seen(self, revision: int) -> None:
        """The node has taken in all directives up to that revision."""
        pending = self._pending
        if pending and pending[0].revision <= revision:
            self._pending = [directive for directive in pending if directive.revision > revision]

    async def wait(self, park_s: float, resend_s: float) -> None:
        """Return when there is something new to send, when something sent has gone unseen for `resend_s`, or after
        `park_s`. News that another answer has taken meanwhile (to a sync with reports) are none any more."""
        loop = asyncio.get_running_loop()
        until = loop.time() + park_s
        dismissals = self._dismissals
        while not self._has_news:
            self._news.clear()
            wait_s = until - loop.time()
            try:
                async with asyncio.timeout(min(wait_s, resend_s) if self._pending else wait_s):
                    await self._news.wait()
            except TimeoutError:
                if self._pending or loop.time() >= until:
                    return
            if dismissals != self._dismissals:
                return

    @property
    def _has_news(self) -> bool:
        if self._file_requests or self._launch_requests:
            return True
        return self.revision > self.sent and not self._answers_due

    def take(self) -> tuple[tuple[Directive, ...], tuple[FileRequest, ...]]:
        """All unseen directives, and the file requests not sent yet.

        Always all: an answer that left out what an earlier one carries would, arriving first, have the node skip it.
        """
        requests = tuple(self._file_requests)
        self._file_requests.clear()
        self.sent = self.revision
        return tuple(self._pending), requests

    def take_launches(self) -> tuple[LaunchRequest, ...]:
        """The launch requests not sent yet."""
        requests = tuple(self._launch_requests)
        self._launch_requests.clear()
        return requests

    def wake(self) -> None:
        """Let the parked sync answer now (the service stops)."""
        self._dismissals += 1
        self._news.set()
