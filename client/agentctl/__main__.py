"""`python -m agentctl`."""

from __future__ import annotations

import sys

from agentctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
