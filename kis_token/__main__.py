"""``python -m kis_token`` runs the command kis-token."""

from __future__ import annotations

import sys

from kis_token.cli import main

sys.exit(main())
