"""XML of servers: what is parsed, and what is refused before it can hurt."""

import pytest

from millpond.staging.xml import is_xml, parse_xml

BOMB = '<?xml version="1.0" encoding="{}"?><!DOCTYPE a [<!ENTITY e "ee">]><a>&e;</a>'


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\r\n ", b'<?xml version="1.0" encoding="utf-8"?>'])
def test_utf_8_is_read(before: bytes) -> None:
    text = before + "<Error><Code>Größe</Code></Error>".encode()
    assert is_xml(text)
    assert parse_xml(text).findtext("Code") == "Größe"


@pytest.mark.parametrize("text", [b"", b"{}", b"<a>", b"<a>\xff</a>", b"<a>&e;</a>"])
def test_what_is_no_xml_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_xml(text)


def test_a_document_type_is_refused() -> None:
    with pytest.raises(ValueError, match="document type"):
        parse_xml(BOMB.format("utf-8").encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037"])
@pytest.mark.parametrize("claimed", ["utf-8", "utf-16"])
def test_a_document_type_hides_in_no_other_encoding(encoding: str, claimed: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_xml(BOMB.format(claimed).encode(encoding))
