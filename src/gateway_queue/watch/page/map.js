// The map of all shards: a row for each bucket, with its shards from left to right, so that a
// launch is a moving front. With many buckets, or on a narrow screen, a column for each.

import { mark, say } from "./dom.js";
import { STATES } from "./picture.js";
import { number } from "./words.js";

const GUTTER = 34; // for the row numbers
const HEAD = 16; // for the column numbers
const NARROW = 480;
const MANY_BUCKETS = 32;
const SMALLEST = 7; // pixels of a cell
const WIDEST = 14;
const HIGH = 11;
const LOW = 8; // with many lines
const MANY_LINES = 40;

// Where each shard is, and which shard is where.
class Layout {
  constructor(picture, width) {
    const buckets = picture.summary.buckets.length;
    this.lanes = Array.from({ length: buckets }, () => []);
    for (let shard = 0; shard < picture.shards.length; shard += 1) {
      this.lanes[picture.bucketOf(shard)].push(shard);
    }
    const longest = Math.max(1, ...this.lanes.map((lane) => lane.length));
    const room = width - GUTTER;
    const isNarrow = width < NARROW;
    const fit = Math.max(1, Math.floor(room / SMALLEST));
    this.inColumns = buckets > MANY_BUCKETS || (isNarrow && buckets > 1);
    this.across = Math.min(this.inColumns ? buckets : longest, fit);
    const bands = this.inColumns ? Math.ceil(buckets / this.across) : buckets;
    this.linesPerBand = this.inColumns ? longest : Math.ceil(longest / this.across);
    this.wide = Math.min(isNarrow ? room : WIDEST, room / this.across);
    this.lines = bands * this.linesPerBand;
    this.gap = bands > 1 && this.linesPerBand > 1 ? 3 : 0;
    this.high = this.lines > MANY_LINES ? LOW : HIGH;
    this.top = this.inColumns ? HEAD : 0;
    this.height = this.top + this.lines * this.high + bands * this.gap + 1;
    this.place = new Map();
    this.at = new Map();
    this.lanes.forEach((lane, bucket) => lane.forEach((shard, index) => {
      const column = this.inColumns ? bucket % this.across : index % this.across;
      const line = this.inColumns
        ? Math.floor(bucket / this.across) * this.linesPerBand + index
        : bucket * this.linesPerBand + Math.floor(index / this.across);
      this.place.set(shard, { column, line });
      this.at.set(line * this.across + column, shard);
    }));
  }

  box({ column, line }) {
    const band = Math.floor(line / this.linesPerBand);
    return [GUTTER + column * this.wide, this.top + line * this.high + band * this.gap];
  }

  shardNear(x, y) {
    const column = Math.floor((x - GUTTER) / this.wide);
    const band = Math.floor((y - this.top) / (this.linesPerBand * this.high + this.gap));
    const line = Math.floor((y - this.top - band * this.gap) / this.high);
    return this.shardAt(column, line);
  }

  shardAt(column, line) {
    if (column < 0 || column >= this.across) return undefined;
    return this.at.get(line * this.across + column);
  }
}

export class ShardMap {
  // Calls `chosen` with the number of a shard when the user chooses it.
  constructor(canvas, help, chosen) {
    this.canvas = canvas;
    this.help = help;
    this.chosen = chosen;
    this.context = canvas.getContext("2d");
    this.picture = null;
    this.layout = null;
    this.cursor = null; // the shard under the arrow keys' cursor
    this.shown = null; // the shard whose details are shown
    canvas.addEventListener("click", (event) => this.#click(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.#moveTo(this.cursor ?? 0));
    canvas.addEventListener("blur", () => this.#redrawCursor());
    new ResizeObserver(() => this.redraw()).observe(canvas.parentElement);
    for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
      matchMedia(query).addEventListener("change", () => this.redraw());
    }
  }

  // Redraw the changed shards, or all if `changed` is null.
  update(picture, changed) {
    const isOther = this.buckets !== picture.summary.buckets.length ||
      this.keys !== picture.summary.limits.max_concurrency;
    this.picture = picture;
    if (changed === null || isOther || this.layout === null) this.redraw();
    else changed.forEach((shard) => this.#draw(shard));
    this.#describe();
  }

  show(shard) {
    const before = this.shown;
    this.shown = shard;
    this.#draw(before);
    this.#draw(shard);
  }

  redraw() {
    if (this.picture === null) return;
    const width = this.canvas.parentElement.clientWidth;
    this.buckets = this.picture.summary.buckets.length;
    this.keys = this.picture.summary.limits.max_concurrency;
    this.layout = new Layout(this.picture, width);
    const scale = devicePixelRatio;
    this.canvas.width = width * scale;
    this.canvas.height = this.layout.height * scale;
    this.canvas.style.height = `${this.layout.height}px`;
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    const style = getComputedStyle(this.canvas);
    const names = ["ground", "ink", "faint", "in", "just", "loop", "bad", "waits", "mark", "focus"];
    this.colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.#number();
    for (let shard = 0; shard < this.picture.shards.length; shard += 1) this.#draw(shard);
    const lanes = this.layout.inColumns ? "column" : "row";
    const along = this.layout.inColumns ? "from top to bottom" : "from left to right";
    say(this.help, `A ${lanes} for each bucket, the shards in it ${along}. Arrow keys move; Enter shows a shard.`);
  }

  // The numbers of the buckets.
  #number() {
    const { layout, context } = this;
    context.fillStyle = this.colours.faint;
    context.font = "10px system-ui, sans-serif";
    context.textBaseline = "middle";
    if (layout.inColumns) {
      context.textAlign = "center";
      const every = Math.ceil(24 / layout.wide);
      for (let bucket = 0; bucket < Math.min(layout.across, layout.lanes.length); bucket += every) {
        context.fillText(bucket, GUTTER + (bucket + 0.5) * layout.wide, HEAD / 2);
      }
      context.textAlign = "right";
      for (let line = 0; line < layout.lines; line += 4) {
        const shard = layout.shardAt(0, line);
        if (shard === undefined) continue;
        context.fillText(shard, GUTTER - 6, layout.box({ column: 0, line })[1] + layout.high / 2);
      }
      return;
    }
    context.textAlign = "right";
    layout.lanes.forEach((_, bucket) => {
      const [, y] = layout.box({ column: 0, line: bucket * layout.linesPerBand });
      context.fillText(bucket, GUTTER - 6, y + layout.high / 2);
    });
  }

  #draw(shard) {
    const place = this.layout?.place.get(shard);
    if (place === undefined) return;
    const { context, colours, layout } = this;
    const [x, y] = layout.box(place);
    const [wide, high] = [layout.wide, layout.high];
    context.fillStyle = colours.ground;
    context.fillRect(x, y, wide, high);
    drawState(context, this.picture.shards[shard], x + 0.5, y + 0.5, wide - 1, high - 1, colours);
    const isCursor = shard === this.cursor && document.activeElement === this.canvas;
    if (shard !== this.shown && !isCursor) return;
    context.strokeStyle = isCursor ? colours.focus : colours.ink;
    context.lineWidth = 2;
    context.strokeRect(x + 1, y + 1, wide - 2, high - 2);
  }

  #click(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const shard = this.layout?.shardNear(event.clientX - left, event.clientY - top);
    if (shard === undefined) return;
    this.#moveTo(shard);
    this.chosen(shard);
  }

  #key(event) {
    const moves = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    const here = this.layout?.place.get(this.cursor ?? 0);
    if (here === undefined) return;
    if (event.key in moves) {
      const [across, down] = moves[event.key];
      this.#moveTo(this.layout.shardAt(here.column + across, here.line + down) ?? this.cursor);
    } else if (event.key === "Home") this.#moveTo(0);
    else if (event.key === "End") this.#moveTo(this.picture.shards.length - 1);
    else if (event.key === "Enter" || event.key === " ") this.chosen(this.cursor);
    else return;
    event.preventDefault();
  }

  #moveTo(shard) {
    const before = this.cursor;
    this.cursor = shard;
    this.#draw(before);
    this.#draw(shard);
    this.#describe();
  }

  #redrawCursor() {
    this.#draw(this.cursor);
  }

  #describe() {
    if (this.picture === null) return;
    const shard = this.cursor ?? 0;
    const letter = this.picture.shards[shard];
    mark(this.canvas, "aria-valuemax", Math.max(0, this.picture.shards.length - 1));
    mark(this.canvas, "aria-valuenow", shard);
    const text = letter === undefined
      ? "no shard"
      : `${number(shard)}, bucket ${this.picture.bucketOf(shard)}: ${STATES.get(letter)}`;
    mark(this.canvas, "aria-valuetext", text);
  }
}

// Each state has its own shape and colour.
function drawState(context, letter, x, y, wide, high, colours) {
  const fill = { i: colours.in, j: colours.just, c: colours.loop, x: colours.bad }[letter];
  const [middle, centre] = [x + wide / 2, y + high / 2];
  if (fill) {
    context.fillStyle = fill;
    context.fillRect(x, y, wide, high);
  }
  context.fillStyle = context.strokeStyle = fill ? colours.mark : colours.waits;
  context.lineWidth = 1;
  if (letter === "j") context.fillRect(middle - 1, centre - 1, 2, 2);
  else if (letter === "x") {
    stroke(context, [middle - 2, centre - 3, middle + 2, centre + 3], [middle + 2, centre - 3, middle - 2, centre + 3]);
  } else if (letter === "c") {
    stroke(context, [middle - 2, centre + 3, middle, centre - 3], [middle, centre - 3, middle + 2, centre + 3]);
  } else if (letter === "w") {
    context.strokeRect(x + 0.5, y + 0.5, wide - 1, high - 1);
  } else if (letter === "a") {
    context.setLineDash([2, 2]);
    context.strokeRect(x + 0.5, y + 0.5, wide - 1, high - 1);
    context.setLineDash([]);
  } else if (letter === "n") {
    context.strokeStyle = colours.ink;
    context.lineWidth = 2;
    context.strokeRect(x + 1, y + 1, wide - 2, high - 2);
  } else if (letter === ".") context.fillRect(middle - 0.5, centre - 0.5, 1, 1);
}

function stroke(context, ...lines) {
  context.beginPath();
  for (const [x, y, toX, toY] of lines) {
    context.moveTo(x, y);
    context.lineTo(toX, toY);
  }
  context.stroke();
}
