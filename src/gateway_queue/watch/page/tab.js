// The title and the icon of the tab, so that the state is visible among other tabs.

import { byId, mark } from "./dom.js";
import { length, number } from "./words.js";

// A shape for each state, not only a colour.
const ICONS = {
  ready: ["#0b7a5e", "M4.5 8.5l2.5 2.5 4.5-5.5"],
  busy: ["#2a62c9", "M4 5.5h8M4 8h5.5M4 10.5h8"],
  paused: ["#8a4b08", "M5.8 4.5v7M10.2 4.5v7"],
  stopped: ["#b3261e", "M5 5l6 6M11 5l-6 6"],
  old: ["#5b6675", "M8 4v5M8 11.2v.6"],
};

// `name` is the name of the page.
export function showTab(state, waiting, within, name) {
  const wait = waiting ? `${number(waiting)} wait` : "nobody waits";
  const words = {
    ready: wait,
    busy: within === null ? wait : `${wait}, ${length(within)}`,
    paused: `Paused, ${wait}`,
    stopped: `Stopped, ${wait}`,
    old: "No answer",
  };
  const title = `${words[state]} \u2013 ${name}`;
  if (document.title !== title) document.title = title;
  const [colour, path] = ICONS[state];
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="4" fill="${colour}"/><path d="${path}" fill="none" stroke="#fff" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"/></svg>`;
  mark(document.querySelector("link[rel=icon]"), "href", `data:image/svg+xml,${encodeURIComponent(svg)}`);
}
