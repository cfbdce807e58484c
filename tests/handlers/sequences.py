"""How many random sequences a test of a service tries."""

from __future__ import annotations

import os


def examples(usual: int) -> int:
    """Give ``usual``, times what ``SEQUENCES`` says: ``SEQUENCES=10 pytest tests/handlers``."""
    return usual * int(os.environ.get("SEQUENCES", "1"))
