"""Ask a server for a file: one request, its redirects, and what a refusal means."""

from __future__ import annotations

import email.utils
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

ELSEWHERE = "try another --mirror, or correct the table"
_LATER = {408, 425, 429, 500, 502, 503, 504}  # status codes: the same request may succeed later


class Again(Exception):  # noqa: N818 (the next attempt may succeed)
    """This attempt failed. `wait` is the number of seconds that the server asks for.

    If `restart` is true, the bytes that are there do not belong to the server's file.
    """

    def __init__(self, reason: str, wait: float | None = None, *, restart: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.restart = wait, restart


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to web addresses, and never from https to http. Collect the size and the
    SHA-256 that Hugging Face sends with a redirect."""

    def __init__(self) -> None:
        self.linked: dict[str, Any] = {}

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        self.linked |= _linked(headers)
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type != "http"):
            raise urllib.error.HTTPError(req.full_url, code, f"to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _linked(headers: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    sha256 = (headers.get("X-Linked-ETag") or "").strip('"')
    if re.fullmatch("[0-9a-f]{64}", sha256):
        found["sha256"] = sha256
    if re.fullmatch(r"\d{1,18}", size := headers.get("X-Linked-Size") or ""):
        found["size"] = int(size)
    return found


def send_request(url: str, headers: Mapping[str, str], timeout: float) -> Any:
    """Send a GET request, follow its redirects, and return the answer (200 or 206).

    `answer.linked` has the size and the SHA-256 that Hugging Face sends. Raise Again if the same
    request may succeed later, and ValueError if it cannot.
    """
    redirects, opener = _Redirects(), urllib.request.OpenerDirector()
    for handler in (  # no handler of file: and ftp: addresses
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(), redirects,
    ):  # fmt: skip
        opener.add_handler(handler)
    try:
        request = urllib.request.Request(url, headers=dict(headers))
        answer: Any = opener.open(request, None, timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ValueError(
                f"the server's certificate is not valid ({url}: {reason.verify_message}); check "
                "the address, and your computer's clock and certificates"
            ) from None
        raise Again(f"no answer: {reason or type(reason).__name__}") from None
    except ValueError as error:
        raise ValueError(f"a web address is not valid ({url}: {error}); {ELSEWHERE}") from None
    if answer is None:
        raise ValueError(f"an address must start with https:// or http:// ({url}); {ELSEWHERE}")
    if answer.status not in (200, 206):
        answer.close()
        raise Again(f"{answer.status} {answer.reason}")
    answer.linked = redirects.linked | _linked(answer.headers)
    return answer


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    """Return the exception for a status code that is not a success."""
    said = f"{error.code} {error.reason}"
    if error.code == 416:  # the server's file ends before the range
        return Again(said, restart=True)
    if error.code in _LATER:
        return Again(said, _retry_after(error.headers.get("Retry-After") or ""))
    if error.code < 400:
        return ValueError(
            f"the server must redirect to a safe web address ({url}: {said}); {ELSEWHERE}"
        )
    if error.code in (401, 403):
        return ValueError(
            f"the server does not allow the download ({url}: {said}); accept its terms in a "
            "browser and save the file, or try another --mirror"
        )
    return ValueError(f"the server does not have the file ({url}: {said}); {ELSEWHERE}")


def _retry_after(value: str) -> float | None:
    """Return the seconds of a `Retry-After` header: a number, or a date."""
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())
