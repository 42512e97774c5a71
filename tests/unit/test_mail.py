"""Mails as programs of thirty years have written them."""

from __future__ import annotations

import io

import pytest

from pipeline.documents.containers.mail_files import Mail, as_html, read_mail
from pipeline.documents.containers.members import MembersLost
from pipeline.documents.files import Kind, kind_of


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
    assert len(read(head + b"--b\n\nx\n" * 100 + b"--b--\n").plain or "") == 199
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
    assert (mail.html, mail.plain) == ("<p>rich", "plain\nmore ä")
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
        assert "привет" in (read(head + text.encode(code)).html or "")


@pytest.mark.parametrize(
    ("name", "kept"),
    [("../x.pdf", "x.pdf"), ("..\\..\\x.pdf", "x.pdf"), ("/etc/x.pdf", "etc/x.pdf"), ("..", "part-1.pdf")],
)
def test_an_attachment_whose_name_leads_upwards_gets_a_safe_one(name: str, kept: str) -> None:
    escaped = name.replace("\\", "\\\\")
    part = f'--b\nContent-Type: application/pdf\nContent-Disposition: attachment; filename="{escaped}"\n\nx\n--b--\n'
    head = "From: a@b\nTo: c@d\nContent-Type: multipart/mixed; boundary=b\n\n"
    assert [found for found, _ in read((head + part).encode()).attachments] == [kept]
