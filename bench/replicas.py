"""Several replicas in a storm, and two controls which show that each part of it is needed.

    PYTHONPATH=tests:tests/end_to_end python bench/replicas.py [--seconds 120] [--seed N]

Five replicas as processes and three hundred clients, at a real Redis or Valkey, through a real
HAProxy where it is installed. All kinds of faults that `weather.py` knows happen, drawn from the
seed. The witness knows nothing but the kernel's time stamps at the clients.

early      A grant came sooner than it may after the one before it in its bucket.
lost       A client was not granted after the storm.
overtaken  A client was granted after one that had clearly come later, while all was well.
crashed    A process ended by itself.

Each must be 0, or the exit code is 1. In the controls grants must be early: in the one a new
leader does not wait for what it cannot know; in the other a replica may be late in handing a grant
over, and does not look at its clock.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import trio
from chaos import storm
from engines import INSTALLED
from weather import DEEDS, Deed, kinds_at
from witness import Witness, table

# What may happen in a control: what it is about, so that it shows soon.
CONTROLS: dict[str, tuple[str, dict[str, Deed]]] = {
    "no wait for what is unknown": (
        "unknown_past_is_not_waited_for",
        {name: DEEDS[name] for name in ("engine killed", "engine flushed")},
    ),
    "no look at the clock": ("hand_overs_are_late", {"replica killed": DEEDS["replica killed"]}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kind", choices=INSTALLED, default=INSTALLED[-1])
    parser.add_argument("--direct", action="store_true", help="without HAProxy: judged to 5 ms")
    parser.add_argument("--only", help="nothing but this kind of fault, and no controls")
    given = parser.parse_args()
    kinds = kinds_at(given.kind)
    if given.only:
        kinds = {given.only: kinds[given.only]}

    def rage(
        what: str, seconds: float, *options: str, kinds: Mapping[str, Deed], change: str = ""
    ) -> Witness:
        async def happen() -> Witness:
            with tempfile.TemporaryDirectory() as folder:
                return await storm(
                    given.kind,
                    Path(folder),
                    f"{given.seed} {what}",
                    seconds,
                    *options,
                    kinds=kinds,
                    shards=100 if change else 300,
                    proxied=not given.direct,
                    changes=(change,) if change else (),
                )

        return trio.run(happen)

    print(f"{given.kind}, seed {given.seed}", flush=True)
    is_right = True
    results, seen = [], []
    for what, options in (("without a file", ()), ("with a file", ("--appendonly", "yes"))):
        seen.append(rage(what, given.seconds, *options, kinds=kinds))
        results.append(f"{what}: {seen[-1].report()}")
        is_right &= seen[-1].is_right
    for what, (change, some) in {} if given.only else CONTROLS.items():
        control = rage(what, given.seconds / 2, kinds=some, change=change)
        results.append(f"control, {what}: {control.report()}")
        is_right &= bool(control.early)
    print(*results, table(seen), sep="\n")
    sys.exit(not is_right)


if __name__ == "__main__":
    main()
