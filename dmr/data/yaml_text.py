"""Text in YAML files: without quotes, YAML reads `yes` as true, `1.10` as a number and `2024-01-01` as a date."""

from __future__ import annotations

from datetime import date


def text_rule(value: object) -> str:
    """What is allowed where text is needed and `value` came: text, and how to quote what YAML took for something else.

    Example:
        >>> print(text_rule(False))
        text; quote it, as in "no"
    """
    if isinstance(value, bool):
        return f'text; quote it, as in "{"yes" if value else "no"}"'
    if value is None:
        return 'text; quote it, as in "null"'
    return f'text; quote it, as in "{value}"' if isinstance(value, int | float | date) else "text"
