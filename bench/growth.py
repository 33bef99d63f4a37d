"""How the cost of a client grows with the waiting clients, the buckets, and over HTTP/2.

    python bench/growth.py [--against PYTHON] [--clients 20000] [--plot-only]

measures 1,000, 5,000, 10,000 and 20,000 waiting clients in 16 buckets, 10,000 in 1, 16 and 128
buckets, and 100, 500, 1,000 and 2,000 streams of one HTTP/2 connection (with other ``--clients``
in proportion). Each size has a server of its own, except that the streams share one. It prints
tables, and writes the figures to ``docs/pictures/growth.json`` and plots of them beside it;
``--plot-only`` makes the plots from the figures that are there. It takes about five minutes, and
as long again for the version that is compared with.

``waiting.py`` says how each figure is measured. There are two differences. The interval is one
second (except for HTTP/2), so that even one bucket has grants to measure. And the buckets open at
about the same time, as they do after the start of a busy server, so most grants find the caches
warm from another. If the system does not allow enough open files or ports for 20,000 clients, the
last point is as many as it does.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys

from matplotlib.figure import Figure
from outside import Crowd, most_clients, serving
from plots import BLUE, ORANGE, PICTURES, save, title
from waiting import (
    POLLERS,
    Figures,
    arrive,
    ask_over_http2,
    park,
    poll,
    written,
)

INTERVAL = 1.0
HTTP2_INTERVAL = 5.5  # with many streams a grant may take long
BUCKETS = 16
SECONDS = 10.0
BOUND = 300.0

COSTS = "CPU us per arrival", "CPU us per poll", "CPU us per grant", "KiB per waiting client"

COLOURS = {"other": ORANGE, "this": BLUE}

Points = list[Figures]  # each with what it is a point of, under the name of its series


def open_buckets(crowd: Crowd, buckets: int) -> None:
    for _ in range(buckets):
        crowd.join()
    while crowd.waiting:
        crowd.listen(0.05)


def wait(python: str, clients: int, buckets: int) -> Figures:
    with serving(python, buckets=buckets, interval=INTERVAL, seconds=BOUND) as server:
        crowd = Crowd(server.port())
        open_buckets(crowd, buckets)
        figures = arrive(server, crowd, clients)
        figures |= park(server, crowd, SECONDS) | poll(server, crowd, SECONDS)
        if crowd.lost:
            sys.exit(f"lost: {crowd.lost[:20]}")
    return {cost: figures[cost] for cost in COSTS}


def stream(python: str, sizes: list[int]) -> Points:
    with serving(python, buckets=BUCKETS, interval=HTTP2_INTERVAL, seconds=BOUND) as server:
        by_size = ask_over_http2(server, sizes, BUCKETS, HTTP2_INTERVAL)
    return [{"streams": n, **figures} for n, figures in by_size.items()]


def measure(python: str, clients: int) -> dict[str, Points]:
    most = most_clients() - POLLERS
    sizes = [min(n, most) for n in (clients // 20, clients // 4, clients // 2, clients)]
    by_size = {n: wait(python, n, BUCKETS) for n in sizes}
    some = sizes[2]
    by_buckets = {n: wait(python, some, n) for n in (1, 128)} | {BUCKETS: by_size[some]}
    return {
        "clients": [{"clients": n, **figures} for n, figures in by_size.items()],
        "buckets": [{"buckets": n, **figures} for n, figures in sorted(by_buckets.items())],
        "streams": stream(python, [clients // share for share in (200, 40, 20, 10)]),
    }


def show(version: str, series: dict[str, Points]) -> None:
    for name, points in series.items():
        print(f"\n{version} version, by {name}")
        for cost in (name, *costs(points)):
            print(f"{cost:24}" + "".join(f"{written(point[cost]):>10}" for point in points))


def costs(points: Points) -> list[str]:
    return [cost for cost in COSTS if cost in points[0]]


def plot(name: str, versions: dict[str, Points]) -> None:
    names = costs(next(iter(versions.values())))
    figure = Figure(figsize=(7, 1.9), layout="constrained")
    for axes, cost in zip(figure.subplots(1, len(names)), names, strict=True):
        for version, points in versions.items():
            xs = [point[name] for point in points]
            ys = [point[cost] for point in points]
            axes.plot(xs, ys, marker="o", markersize=4, color=COLOURS[version], label=version)
            axes.set_xticks(xs, [short(x) for x in xs])
        axes.set_title(title(cost))
        axes.set_xlabel(name)
        axes.set_ylim(0, 1.2 * axes.dataLim.y1)
    if len(versions) > 1:
        figure.axes[0].legend()
    save(figure, f"growth-{name}")


def short(number: float) -> str:
    return f"{number / 1000:g}k" if number >= 1000 else f"{number:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", metavar="PYTHON", help="an interpreter with another version")
    parser.add_argument("--clients", type=int, default=20_000, help="the most that wait")
    parser.add_argument("--plot-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if options.clients < 200:
        parser.error("at least 200 clients")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"broke off: not done after {BOUND:g} s"))
    file = PICTURES / "growth.json"
    if not options.plot_only:
        pythons = {"other": options.against} if options.against else {}
        pythons |= {"this": sys.executable}
        measured = {name: measure(python, options.clients) for name, python in pythons.items()}
        file.write_text(json.dumps(measured, indent=1) + "\n")
    results: dict[str, dict[str, Points]] = json.loads(file.read_text())
    for name in results["this"]:
        plot(name, {version: series[name] for version, series in results.items()})
    for version, series in results.items():
        show(version, series)


if __name__ == "__main__":
    main()
