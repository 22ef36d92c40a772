"""Which URLs are of the same content."""

import pytest

from millpond.agent.content_key import content_key

AZURE = "sv=2024-11-04&st=2026-01-01T00%3A00%3A00Z&se={se}&sr=c&sp=rl&sig={sig}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://a.blob.core.windows.net/c/b", "HTTPS://A.blob.core.windows.net/c/b"),
        ("https://a/c/b", "https://a/c/b?" + AZURE.format(se="2026", sig="x%2By%3D")),
        ("https://a/c/b?" + AZURE.format(se="2026", sig="x"), "https://a/c/b?" + AZURE.format(se="2027", sig="y")),
        ("https://a/c/b?snapshot=1&" + AZURE.format(se="2026", sig="x"), "https://a/c/b?snapshot=1"),
        ("https://a/c/b?si=policy&sr=b&sv=1&sig=x", "https://a/c/b?si=other&sr=c&sv=2&sig=y"),
        ("http://h:1/storage/c/b?sp=r&se=1&sr=b&sig=x", "http://h:1/storage/c/b?sp=rl&se=2&sr=c&sig=y"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=1&X-Amz-Signature=1&versionId=v",
            "https://b.s3.amazonaws.com/k?x-amz-signature=2&X-Amz-Security-Token=t&versionId=v",
        ),
        ("https://b/k?AWSAccessKeyId=a&Expires=1&Signature=s", "https://b/k?AWSAccessKeyId=b&Expires=2&Signature=t"),
        ("https://g/k?X-Goog-Signature=1&X-Goog-Date=2", "https://g/k"),
        ("https://user:secret@h/a", "https://h/a#part"),
    ],
)
def test_who_asks_does_not_matter(one: str, other: str) -> None:
    assert content_key(one) == content_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://a/c/b", "https://a/c/B"),
        ("https://a/c/b", "http://a/c/b"),
        ("https://a/c/b", "https://a:444/c/b"),
        ("https://a/c/b", "https://b/c/b"),
        ("https://a/c/b?snapshot=1&sig=x&se=1", "https://a/c/b?snapshot=2&sig=x&se=1"),
        ("https://b/k?versionId=1&X-Amz-Signature=1", "https://b/k?versionId=2&X-Amz-Signature=1"),
        # No signature: the words may mean anything.
        ("https://a/render?sp=1", "https://a/render?sp=2"),
        ("https://a/render?sig=1", "https://a/render?sig=2"),
        ("https://a/render?se=1&sp=2", "https://a/render?se=1&sp=3"),
        ("https://a/file?Expires=1", "https://a/file?Expires=2"),
        ("https://a/file?Signature=1", "https://a/file?Signature=2"),
        ("https://a/file?X-Amz-Meta=1", "https://a/file?X-Amz-Meta=2"),
        ("https://a/f?x=1&y=2", "https://a/f?y=2&x=1"),
    ],
)
def test_what_is_asked_for_does(one: str, other: str) -> None:
    assert content_key(one) != content_key(other)


def test_it_is_a_name_for_a_file() -> None:
    key = content_key("https://a/\udcff/b?c")
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")


def test_no_url() -> None:
    with pytest.raises(ValueError, match="IPv6"):
        content_key("http://[::1/a")
