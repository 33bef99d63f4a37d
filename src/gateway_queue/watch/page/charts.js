// The two drawings of time: how many wait, and how many are let in.

import { mark, shape } from "./dom.js";
import { clock, many, number } from "./words.js";

const LEFT = 4;
const TOP = 22;
const BOTTOM = 20;
const MINUTE = 60;

// Those that wait, from the beginning of this launch until the last is in.
export function drawBurnDown(svg, picture, within, now) {
  const { width, height } = svg.getBoundingClientRect();
  const points = waitingOverTime(picture, now);
  const [first] = points;
  const { waiting } = picture.summary;
  const until = waiting && within !== null ? Math.max(within, 1) : 0;
  const most = Math.max(1, ...points.map(([, value]) => value));
  const room = until ? width - LEFT - 12 : width - LEFT - 80;
  const x = (at) => LEFT + (room * (at - first[0])) / (until - first[0]);
  const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - value / most);
  const ground = y(0);

  let path = `M${x(first[0])} ${y(first[1])}`;
  let before = first[1];
  for (const [at, value] of points.slice(1)) {
    // Who came, came at once: a ramp between two samples would show what never was.
    path += value > before ? `H${x(at)}V${y(value)}` : `L${x(at)} ${y(value)}`;
    before = value;
  }
  const here = [x(0), y(waiting)];
  const parts = [
    shape("path", { class: "area", d: `${path}L${here[0]} ${ground}L${x(first[0])} ${ground}Z` }),
    shape("path", { class: "axis", d: `M${LEFT} ${ground}H${width}` }),
    shape("path", { class: "line", d: path }),
    shape("path", { class: "now", d: `M${here[0]} ${here[1]}V${ground}` }),
  ];
  if (until) {
    parts.push(
      shape("path", { class: "line to-come", d: `M${here[0]} ${here[1]}L${x(until)} ${ground}` }),
      shape("circle", { class: "ring", cx: x(until), cy: ground, r: 4 }),
      text(clock(until, now), width - 2, height - 4, "end", "strong"),
    );
  }
  parts.push(
    shape("circle", { class: "point", cx: here[0], cy: here[1], r: 4 }),
    text(clock(first[0], now), LEFT, height - 4, "start"),
    text(`${number(waiting)} now`, here[0] + 8, Math.max(14, here[1] - 6), "start", "strong"),
  );
  svg.replaceChildren(...parts);
  const then = until ? `, none at ${clock(until, now)}` : "";
  mark(svg, "aria-label", `Shards that wait: ${number(most)} at most, ${number(waiting)} now${then}`);
}

// Pairs of seconds (of the past, so negative) and how many waited, up to now.
function waitingOverTime({ samples, every, sampledAt, summary }, now) {
  const age = (now - sampledAt) / 1000;
  const points = samples.map(([waiting], index) => [-age - every * (samples.length - 1 - index), waiting]);
  const isFromStart = age + every * (samples.length + 1) > summary.uptime;
  points.unshift(isFromStart ? [-summary.uptime, 0] : [points[0][0] - every, points[0][1]]);
  points.push([0, summary.waiting]);
  let launch = points.length - 1;
  while (launch > 0 && points[launch][1] === 0) launch -= 1;
  while (launch > 0 && points[launch][1] > 0) launch -= 1;
  const shown = points.slice(launch);
  if (shown[0][0] > -MINUTE) shown.unshift([-MINUTE, shown[0][1]]);
  return shown;
}

const BARS = 40;
const SAMPLES_PER_BAR = 3;

// How many were let in, in the last 20 minutes, and how many could have been.
export function drawPace(svg, { samples, every, summary }) {
  const { width, height } = svg.getBoundingClientRect();
  const bars = [];
  for (let end = samples.length; end > 0 && bars.length < BARS; end -= SAMPLES_PER_BAR) {
    const some = samples.slice(Math.max(0, end - SAMPLES_PER_BAR), end);
    bars.unshift(some.reduce((sum, [, granted]) => sum + granted, 0));
  }
  const possible = (summary.pace.possible * SAMPLES_PER_BAR * every) / 60;
  const most = Math.max(possible, ...bars) * 1.1;
  const step = width / BARS;
  const parts = bars.map((granted, index) => {
    const tall = (height * granted) / most;
    const x = width - step * (bars.length - index);
    return shape("rect", { class: "column", x, y: height - tall, width: Math.max(1, step - 1.5), height: tall });
  });
  const limit = height * (1 - possible / most);
  parts.push(shape("path", { class: "limit", d: `M0 ${limit}H${width}` }));
  svg.replaceChildren(...parts);
  mark(svg, "aria-label", `${many(summary.pace.granted, "shard")} let in in the last minute`);
}

function text(content, x, y, anchor, className = "") {
  const made = shape("text", { x, y, "text-anchor": anchor, class: className });
  made.textContent = content;
  return made;
}
