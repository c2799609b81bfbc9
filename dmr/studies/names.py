"""What a study may be called: it is a folder, a run in MLflow and a word in its filters."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
ALLOWED_NAME = "allowed are letters, digits and . _ - (up to 100, the first a letter or digit)"
