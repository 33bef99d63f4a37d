"""Replicas that are struck, and all they need, too: half a minute of it.

`nox -s replicas` lets it rage for longer, and shows that the checks see what they must.
"""

from pathlib import Path

import pytest
from chaos import storm
from engines import INSTALLED
from weather import kinds_at


@pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")
async def test_no_grant_is_early_and_nobody_is_lost_or_overtaken(tmp_path: Path) -> None:
    kind = INSTALLED[-1]
    seen = await storm(
        kind, tmp_path, seed="7", seconds=15, kinds=kinds_at(kind), shards=100, proxied=False
    )

    assert seen.grants
    assert seen.is_right, seen.report()
