"""The page of either half at /: one file that needs nothing else but its own endpoint."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse


def page_router(file: Path) -> APIRouter:
    """`file`: HTML with one <style> and one <script>; it fetches nothing from elsewhere."""
    html = file.read_text(encoding="utf-8")
    headers = {
        "content-security-policy": _allowed(html),
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }

    router = APIRouter(tags=["operators"])

    @router.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        """The page for people."""
        return HTMLResponse(html, headers=headers)

    return router


def _allowed(html: str) -> str:
    """The page's own style and script by their hashes, its requests to this server, no more."""
    own = " ".join(f"{tag}-src {_hash(html, tag)};" for tag in ("style", "script"))
    return (
        f"default-src 'none'; {own} connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(html: str, tag: str) -> str:
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
