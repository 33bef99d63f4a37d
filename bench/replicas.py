"""Several replicas in a storm, and two controls which show that each part of it is needed.

    PYTHONPATH=tests:tests/end_to_end python bench/replicas.py [--seconds 120] [--seed N]

Five replicas as processes and a hundred clients, at a real Redis or Valkey. Replicas are killed,
stopped and let go on in bursts; so is the engine, whose state is flushed, too. The checker knows
nothing but the kernel's time stamps at the clients.

early      A grant came sooner than the interval after the one before it in its bucket.
lost       A client was not granted after the storm.
overtaken  A client was granted before one that had clearly come earlier, while all was well.

Each must be 0, or the exit code is 1. In the controls grants must be early: in the one a new
leader does not wait for what it cannot know; in the other a replica may be late in handing a grant
over, and does not look at its clock.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import trio
from chaos import DEEDS, Deed, Storm, storm
from engines import INSTALLED

# What may happen in a control: what it is about, so that it shows soon.
CONTROLS: dict[str, tuple[str, dict[str, Deed]]] = {
    "no wait for what is unknown": (
        "unknown_past_is_not_waited_for",
        {name: DEEDS[name] for name in ("engine killed", "flushed")},
    ),
    "no look at the clock": ("hand_overs_are_late", {"replica killed": DEEDS["replica killed"]}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kind", choices=INSTALLED, default=INSTALLED[-1])
    given = parser.parse_args()

    def rage(seconds: float, *options: str, deeds: dict[str, Deed], change: str = "") -> Storm:
        async def happen() -> Storm:
            with tempfile.TemporaryDirectory() as folder:
                changes = (change,) if change else ()
                return await storm(
                    given.kind,
                    Path(folder),
                    given.seed,
                    seconds,
                    *options,
                    deeds=deeds,
                    changes=changes,
                )

        return trio.run(happen)

    print(f"{given.kind}, seed {given.seed}", flush=True)
    is_right = True
    results = []
    for what, options in (("without a file", ()), ("with a file", ("--appendonly", "yes"))):
        happened = rage(given.seconds, *options, deeds=DEEDS)
        results.append(f"{what}: {happened.report()}")
        is_right &= not (happened.early or happened.lost or happened.overtaken)
    for what, (change, deeds) in CONTROLS.items():
        happened = rage(given.seconds / 2, deeds=deeds, change=change)
        results.append(f"control, {what}: {happened.report()}")
        is_right &= bool(happened.early)
    print(*results, sep="\n")
    sys.exit(not is_right)


if __name__ == "__main__":
    main()
