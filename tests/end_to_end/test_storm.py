"""Replicas that are killed and stopped, and their engine, too: half a minute of it.

`nox -s replicas` lets it rage for longer, and shows that the checks see what they must.
"""

from pathlib import Path

import pytest
from chaos import storm
from engines import INSTALLED


@pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")
async def test_no_grant_is_early_and_nobody_is_lost_or_overtaken(tmp_path: Path) -> None:
    happened = await storm(INSTALLED[-1], tmp_path, seed=7, seconds=30, shards=60)

    assert happened.grants
    assert happened.early == []
    assert (happened.lost, happened.overtaken) == (0, 0), happened.report()
