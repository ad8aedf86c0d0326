"""Cookies and redirects of signing in."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response


def redirect(url: str) -> RedirectResponse:
    """Return an answer that sends the browser on."""
    return RedirectResponse(url, status_code=303, headers={"cache-control": "no-store"})


def set_cookie(answer: Response, name: str, value: str, *, secure: bool, max_age_s: int) -> None:
    """Have the browser keep a cookie that pages cannot read."""
    # Lax and not strict: the issuer sends the browser back from another site, and a link in a mail is to work.
    answer.set_cookie(name, value, max_age=max_age_s, path="/", secure=secure, httponly=True, samesite="lax")


def drop_cookie(answer: Response, name: str, *, secure: bool) -> None:
    """Have the browser forget it."""
    answer.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="lax")
