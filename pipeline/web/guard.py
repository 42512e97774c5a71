"""Who may ask, and what an answer may do in a browser: looked at before any page.

host     without a token only loopback names are answered to: a name of a stranger's that resolves to this machine
         (DNS rebinding) would let a page of theirs read the archive
token    as `?token=` once, which sets a cookie; or as `Authorization: Bearer`
origin   what changes something comes from a page of ours: browsers say where a form was sent from
body     bounded, but for uploads, which have a bound of their own
answer   no script, style or picture but ours (Content-Security-Policy); in no frame; its type is not guessed
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1_000_000
API = "/api/"
_UPLOADS = "/api/v1/documents"
_STATIC = "/static/"
_HOW_TO_COME_IN = (
    "Open the address that `pagepack serve` printed, with ?token=…, once in this browser. Programs send the header "
    "Authorization: Bearer TOKEN."
)

_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Keys:
    """What is made of the token: the cookie's name and value, and the word that forms carry."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self.cookie = f"pagepack_{self._made_for('name')[:8]}"  # a browser sends cookies to every port of a host
        self.cookie_value = self._made_for("cookie")
        self.form_value = self._made_for("form")

    def _made_for(self, use: str) -> str:
        return hmac.new(self._token, use.encode(), hashlib.sha256).hexdigest()

    def fits(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="replace"), self._token)

    def fits_cookie(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(errors="replace"), self.cookie_value.encode())

    def fits_form(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(errors="replace"), self.form_value.encode())


def is_loopback(host: str) -> bool:
    """A name or address at which only this machine is reached."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_in(header: str) -> str:
    """Its name or address without the port; "" where it is none, as `[`."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


class Guard:
    """Around the whole application; `refuse` answers (status, title, words) as the application's other errors."""

    def __init__(self, app: ASGIApp, keys: Keys | None, refuse: ASGIApp) -> None:
        self._app = app
        self._keys = keys
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # lifespan; no route speaks WebSocket
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_headers(scope, send)
        if self._keys is not None and (entry := self._entry(scope)):
            await _redirect(entry, self._keys, scope, send)
            return
        refusal = self._why_not(scope, headers)
        if refusal is not None:
            scope["refusal"] = refusal
            await self._refuse(scope, receive, send)
            return
        if scope["path"] != _UPLOADS:
            receive = _bounded(receive)
        await self._app(scope, receive, send)

    def _entry(self, scope: Scope) -> str | None:
        """Where a browser goes that came with the right `?token=`: the same address without it."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        assert self._keys is not None
        if scope["method"] != "GET" or not given or not self._keys.fits(given[0]):
            return None
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        path = "/" + raw.decode("latin-1").lstrip("/\\")  # //host leads away, and browsers read /\host so, too
        return path + (f"?{rest}" if rest else "")

    def _why_not(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        host = _host_in(headers.get("host", ""))
        if self._keys is None and not is_loopback(host):
            return 400, "Unknown host", "This server answers to localhost. Give it a token to use another name."
        is_open = scope["path"].startswith(_STATIC)  # how the page looks that asks for the token
        if self._keys is not None and not is_open and not self._is_known(headers):
            return 401, "A token is needed", _HOW_TO_COME_IN
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not _is_same_origin(headers):
            return 403, "Sent from elsewhere", "This was sent from a page of another site. Nothing was changed."
        length = headers.get("content-length", "")
        if scope["path"] != _UPLOADS and length.isdecimal() and int(length) > MAX_BODY_BYTES:
            return 413, "Too much", f"This takes at most {MAX_BODY_BYTES:,} bytes."
        return None

    def _is_known(self, headers: Headers) -> bool:
        assert self._keys is not None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._keys.fits(token.strip()):
            return True
        for pair in headers.get("cookie", "").split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._keys.cookie and self._keys.fits_cookie(value):
                return True
        return False


def _is_same_origin(headers: Headers) -> bool:
    """Whether a page of ours sent it. A program that is no browser says nothing of an origin."""
    if (site := headers.get("sec-fetch-site")) is not None:
        return site in ("same-origin", "none")
    origin, host = headers.get("origin"), headers.get("host")
    return origin is None or origin in (f"http://{host}", f"https://{host}")


def _with_headers(scope: Scope, send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "private, no-cache")
        await send(message)

    return sending


def _bounded(receive: Receive) -> Receive:
    """A body without a length is read so far, and then ends as if its sender had gone."""
    seen = 0

    async def receiving() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > MAX_BODY_BYTES:
                return {"type": "http.disconnect"}
        return message

    return receiving


async def _redirect(where: str, keys: Keys, scope: Scope, send: Send) -> None:
    cookie = f"{keys.cookie}={keys.cookie_value}; Path=/; HttpOnly; SameSite=Lax"
    cookie += "; Secure" if scope["scheme"] == "https" else ""
    headers = [(b"location", where.encode("latin-1", "replace")), (b"set-cookie", cookie.encode())]
    await send({"type": "http.response.start", "status": 303, "headers": [*headers, (b"cache-control", b"no-store")]})
    await send({"type": "http.response.body", "body": b""})
