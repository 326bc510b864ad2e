// From values to the words of the page.

// Characters that would not show, or would change the order of others, show as a box.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
const COLOURS = /\x1b\[[0-9;?]*[ -/]*[@-~]/g;

export const printable = (text) => String(text).replace(HIDDEN, "\u25a1");

// A line of a log as a terminal would leave it: without colours, after the last carriage return.
export function terminal(line) {
  const plain = line.replace(COLOURS, "").replace(/\r+$/, "");
  return printable(plain.slice(plain.lastIndexOf("\r") + 1));
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${String(whole % 60).padStart(2, "0")} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 2880) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} m`;
  return `${Math.floor(minutes / 1440)} d ${Math.round((minutes % 1440) / 60)} h`;
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  let unit = 0;
  let amount = bytes;
  while (amount >= 1023.95 && unit < 4) {
    amount /= 1024;
    unit += 1;
  }
  return `${unit ? amount.toFixed(1) : amount} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

export function time(text) {
  const at = new Date(text);
  const today = new Date().toDateString() === at.toDateString();
  return today ? CLOCK.format(at) : `${DAY.format(at)}, ${CLOCK.format(at)}`;
}

export const seconds = (text) => new Date(text).getTime() / 1000;

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
