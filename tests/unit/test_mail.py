"""Mails as programs of thirty years have written them."""

from __future__ import annotations

import base64
import binascii
import io
import struct

import pytest

from pipeline.documents.containers.mail import Body, Mail, as_html
from pipeline.documents.containers.mail_files import read_mail
from pipeline.documents.containers.members import MembersLost
from pipeline.documents.containers.rtf import rtf_text
from pipeline.documents.files import Kind, kind_of
from tests.archives import outlook


def read(data: bytes) -> Mail:
    assert kind_of(data[:1024]) is Kind.EML
    return read_mail(io.BytesIO(data), Kind.EML)


@pytest.mark.parametrize(
    "subject",
    [
        "Übergabe".encode(),
        "Übergabe".encode("latin-1"),
        b"=?iso-8859-1?Q?=DCberg?=\n =?utf-8?B?YWJl?=",
        b"=?iso-8859-1?Q?=DCbergabe?=",
    ],
)
def test_a_header_is_read_in_whatever_code_it_came(subject: bytes) -> None:
    assert read(b"From: a@b\nSubject: " + subject + b"\n\nbody").headers["Subject"] == "Übergabe"
    assert read(b"\xef\xbb\xbfSubject: " + subject + b"\nFrom: a@b\n\nbody").headers["Subject"] == "Übergabe"


def test_a_mail_of_more_parts_than_are_looked_at_is_refused() -> None:
    head = b"From: a@b\nTo: c@d\nContent-Type: multipart/mixed; boundary=b\n\n"
    assert len(read(head + b"--b\n\nx\n" * 100 + b"--b--\n").bodies) == 100
    with pytest.raises(MembersLost, match="more than 20,000 parts") as lost:
        read(head + b"--b\n\nx\n" * 20_001 + b"--b--\n")
    assert lost.value.cause == "too-large"


def test_parts_are_the_body_or_attachments() -> None:
    parts = [
        b"Content-Type: multipart/alternative; boundary=i\n\n--i\n\nplain\n--i\nContent-Type: text/html\n\n<p>rich"
        b"\n--i--",
        b"Content-Type: text/calendar\n\nBEGIN:VCALENDAR",
        b"Content-Type: image/png\nContent-Disposition: inline; filename*=utf-8''%c3%9c.png\n\nPNG",
        b'Content-Type: application/pdf; name="=?utf-8?Q?=C3=9C.pdf?="\nContent-Transfer-Encoding: base64\n\nJVBERg==',
        b"Content-Type: text/plain; name=note.txt\n\nnote",
        b"Content-Type: image/gif\n\nGIF",
        b"Content-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nStatus: 5.0.0",
        b"Content-Type: message/rfc822\n\nFrom: c@d\nSubject: in/ner\n\nits body",
        b"Content-Type: text/plain; charset=nobody-knows\n\nmore \xe4",
    ]
    head = b"From: a@b\nTo: c@d\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=o\n\n"
    mail = read(head + b"".join(b"--o\n%s\n" % part for part in parts) + b"--o--\n")
    assert mail.bodies == [Body(True, "<p>rich"), Body(False, "more ä")], (
        "of alternatives the richest, and what follows"
    )
    held = {name: content() for name, content in mail.attachments}
    status, inner = held.pop("part-5"), held.pop("in-ner.eml")
    assert held == {"Ü.png": b"PNG", "Ü.pdf": b"%PDF", "note.txt": b"note", "part-4.gif": b"GIF"}
    assert b"Status: 5.0.0" in status and inner == b"From: c@d\nSubject: in/ner\n\nits body"
    shown = as_html(mail).decode()
    assert "<p><b>To:</b> c@d</p>" in shown and "note.txt" in shown and "<p>rich" in shown


def test_html_without_a_charset_is_in_the_code_that_it_declares() -> None:
    head = b"From: a@b\nTo: c@d\nContent-Type: text/html\nContent-Transfer-Encoding: 8bit\n\n"
    page = "<html><head><meta charset='{}'></head><body>Grüße, привет</body></html>"
    for code in ("windows-1251", "utf-8"):
        text = page.format(code).replace("ü", "u").replace("ß", "s") if code != "utf-8" else page.format(code)
        assert "привет" in read(head + text.encode(code)).bodies[0].text


@pytest.mark.parametrize(
    ("name", "kept"),
    [("../x.pdf", "x.pdf"), ("..\\..\\x.pdf", "x.pdf"), ("/etc/x.pdf", "etc/x.pdf"), ("..", "part-1.pdf")],
)
def test_an_attachment_whose_name_leads_upwards_gets_a_safe_one(name: str, kept: str) -> None:
    escaped = name.replace("\\", "\\\\")
    part = f'--b\nContent-Type: application/pdf\nContent-Disposition: attachment; filename="{escaped}"\n\nx\n--b--\n'
    head = "From: a@b\nTo: c@d\nContent-Type: multipart/mixed; boundary=b\n\n"
    assert [found for found, _ in read((head + part).encode()).attachments] == [kept]


MIME = b"From: a@b\nTo: c@d\nMIME-Version: 1.0\n"
PARTS = MIME + b"Content-Type: multipart/mixed; boundary=b\n\n"
INNER = b"From: c@d\nSubject: inner\n\nits body\n"


def held(mail: Mail) -> dict[str, bytes]:
    return {name: content() for name, content in mail.attachments}


def uuencoded(data: bytes) -> bytes:
    lines = (binascii.b2a_uu(data[at : at + 45]) for at in range(0, len(data), 45))
    return b"begin 644 a scan.png\n" + b"".join(lines) + b"`\nend\n"


def test_text_before_and_after_html_is_shown_too() -> None:
    parts = [b"\n\nfirst", b"Content-Type: text/html\n\n<body>second</body>", b"\n\nfooter of the list"]
    mail = read(PARTS + b"".join(b"--b\n%s\n" % part for part in parts) + b"--b--\n")
    shown = as_html(mail).decode()
    places = [shown.index(word) for word in ("From:", "first", "second", "footer of the list")]
    assert places == sorted(places)


def test_of_alternatives_one_that_says_something_is_shown() -> None:
    head = MIME + b"Content-Type: multipart/alternative; boundary=b\n\n--b\n\nwords\n--b\nContent-Type: text/html\n\n"
    assert read(head + b"<html><body> </body></html>\n--b--\n").bodies == [Body(False, "words")]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (b"Content-Type: text/calendar\n\nSUMMARY:Meeting", "SUMMARY:Meeting"),
        (b"Content-Type: text/enriched\n\n<bold>rich</bold> words", "rich words"),
        (b"Content-Type: multipart/mixed; boundary=other\n\n--b\n\nwords", "--b\n\nwords"),
        (b"Content-Type: text/plain; charset=iso-8859-8-i\n\n" + "שלום".encode("iso8859-8"), "שלום"),
        (b"Content-Type: text/plain; charset=gb2312\n\n" + "朱镕基".encode("gbk"), "朱镕基"),
        (b"Content-Type: text/plain; charset=us-ascii\n\n" + "5 €".encode(), "5 €"),
    ],
)
def test_what_a_mail_says_in_another_form_is_not_lost(part: bytes, said: str) -> None:
    assert [body.text.strip() for body in read(MIME + part + b"\n").bodies] == [said]


def test_files_that_are_written_into_the_text_are_attachments() -> None:
    data = bytes(range(256)) * 3
    mail = read(b"From: a@b\nTo: c@d\n\nsee below\n" + uuencoded(data) + b"bye\nbegin 644 none\nno code\nend\n")
    assert held(mail) == {"a scan.png": data}
    assert mail.bodies == [Body(False, "see below\nbye\nbegin 644 none\nno code\nend")]


def test_a_mail_within_that_is_encoded_and_one_that_is_cut_are_read() -> None:
    head = b"--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n"
    mail = read(PARTS + head + base64.encodebytes(INNER) + b"--b--\n")
    assert held(mail) == {"inner.eml": INNER}
    head = b"--b\nContent-Type: image/png; name=a.png\nContent-Transfer-Encoding: base64\n\n"
    data = bytes(range(200))
    assert data.startswith(held(read(PARTS + head + base64.encodebytes(data)[:-10]))["a.png"][:100])
    assert len(held(read(PARTS + head + base64.encodebytes(data)[:-8]))["a.png"]) > 190


def test_a_web_page_in_one_file_is_read_without_a_sender() -> None:
    head = b"MIME-Version: 1.0\nContent-Type: multipart/related; boundary=b\n\n"
    assert read(head + b"--b\nContent-Type: text/html\n\n<p>saved</p>\n--b--\n").bodies == [Body(True, "<p>saved</p>")]
    assert kind_of(b"MIME-Version: 1.0\nContent-Type: text/plain\n\nx") is None


def test_what_outlook_wrapped_is_attached() -> None:
    def attribute(number: int, data: bytes) -> bytes:
        return struct.pack("<BII", 1, number, len(data)) + data + b"\0\0"

    name = "Größe.pdf".encode("utf-16-le") + b"\0\0"
    long_name = struct.pack("<IHHII", 1, 31, 0x3707, 1, len(name)) + name
    data = b"\x78\x9f\x3e\x22\1\0" + attribute(0x2800C, b"what it says\0")
    data += attribute(0x69002, b"\1") + attribute(0x18010, b"GRE~1.PDF\0") + attribute(0x6800F, b"%PDF")
    data += attribute(0x69005, long_name) + attribute(0x69002, b"\1") + attribute(0x6800F, b"PNG")
    part = b"--b\nContent-Type: application/ms-tnef\nContent-Transfer-Encoding: base64\n\n"
    mail = read(PARTS + part + base64.encodebytes(data) + b"--b--\n")
    assert held(mail) == {"Größe.pdf": b"%PDF", "part-2": b"PNG"} and mail.bodies == [Body(False, "what it says")]
    broken = data[:20] + b"\xff" * 30
    assert list(held(read(PARTS + part + base64.encodebytes(broken) + b"--b--\n")).values()) in ([broken], [])


def message(**streams: bytes) -> Mail:
    named = {f"__substg1.0_{name}" if name[0].isdigit() else name: data for name, data in streams.items()}
    return read_mail(io.BytesIO(outlook(named)), Kind.MSG)


def test_an_outlook_mail_is_read_in_its_code_page() -> None:
    page = bytes(32) + struct.pack("<HHIq", 3, 0x3FFD, 6, 1251) + struct.pack("<HHIq", 3, 0x3FDE, 6, 1251)
    streams = {"0037001E": "Привет", "1000001E": "Добрый день"}
    packed = {name: text.encode("cp1251") for name, text in streams.items()}
    mail = message(**packed, **{"__properties_version1.0": page})
    assert (mail.headers["Subject"], mail.bodies) == ("Привет", [Body(False, "Добрый день")])
    html = "<meta charset='windows-1251'>Добрый день".encode("cp1251")
    assert "Добрый день" in message(**{"10130102": html}).bodies[0].text


PACKED_RTF = (  # the example of MS-OXRTFCP, 4.1.1
    "2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320af32068656c090020627705b06c647d0a800fa0"
)


def test_an_outlook_mail_that_has_only_rtf_is_read() -> None:
    assert message(**{"10090102": bytes.fromhex(PACKED_RTF)}).bodies == [Body(False, "hello world")]


@pytest.mark.parametrize(
    ("rtf", "said"),
    [
        (
            rb"{\rtf1\ansi\ansicpg1251{\fonttbl{\f0 Arial;}}\f0 \'cf\'f0\'e8\'e2\'e5\'f2\par two\tab x}",
            "Привет\ntwo\tx",
        ),
        (rb"{\rtf1\ansi\uc1 5\u8364?{\*\generator x;}\{a\}\u-10179\'3f\u-8704\'3f}", "5€{a}😀"),
        (rb"{\rtf1\fromhtml1 {\*\htmltag64 <p>}\htmlrtf \par copy\htmlrtf0 once{\*\htmltag72 </p>}}", "once"),
    ],
)
def test_rtf_gives_its_words(rtf: bytes, said: str) -> None:
    assert rtf_text(rtf) == said
