"""Passwords in the URIs of stores are shown to nobody: not on a screen, in a log, or on a page."""

from __future__ import annotations

import re

_SECRETS = (
    (re.compile(r"(https?://)[^\s/@:]+@"), r"\1***@"),  # the only name may be a token
    (re.compile(r"(https?://[^\s/@:]*:)[^\s/]*@"), r"\1***@"),
    (re.compile(r"((?<!http)(?<!https)://[^\s/@:]*:)\S*@"), r"\1***@"),  # a database's may hold a slash
    (re.compile(r"\b((?:ssl)?(?:password|passwd)=)[^\s&;'\"]+"), r"\1***"),
)


def without_password(text: str) -> str:
    """The text with `***` for the password of each URI in it."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text
