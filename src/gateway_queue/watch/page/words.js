// Numbers, durations and times for people. Pure.

const LANGUAGE = "en-GB";

export const number = (value) => Math.round(value).toLocaleString(LANGUAGE);

export const many = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;

// A verb that agrees: 1 shard waits, 2 shards wait.
export const agree = (value, verb) => (value === 1 ? `${verb}s` : verb);

// A duration that can be read at a glance.
export function length(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [days, hours] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24];
  const [minutes, rest] = [Math.floor(whole / 60) % 60, whole % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}

// The text without characters that reverse the text around them, or are invisible.
export const printable = (text) => text.replace(/[\p{C}\u2028\u2029]/gu, "?");

// The time of day this many seconds from now, with the day if it is not today.
export function clock(seconds, now, { precise = false } = {}) {
  const at = new Date(now + seconds * 1000);
  const time = { hour: "2-digit", minute: "2-digit", ...(precise && { second: "2-digit" }) };
  const isToday = at.toDateString() === new Date(now).toDateString();
  return at.toLocaleString(LANGUAGE, isToday ? time : { weekday: "short", ...time });
}

export function zone(now) {
  const { timeZone } = new Intl.DateTimeFormat().resolvedOptions();
  const parts = new Intl.DateTimeFormat(LANGUAGE, { timeZoneName: "shortOffset" }).formatToParts(now);
  const offset = parts.find((part) => part.type === "timeZoneName").value;
  return offset === timeZone ? timeZone : `${timeZone} (${offset})`;
}
