// The timeline of a build: a bar for each attempt, bands for pauses, marks for what interrupted it.
import { html, useEffect, useRef, useState } from "./html.js";
import { duration, printable, time } from "./format.js";
import { history, scale } from "./history.js";

const ROW = 26;
const TOP = 22;
const LETTER = 7.3;
const SYMBOLS = { death: "\u26a1", rewound: "\u21a9", resumed: "\u25b6", cancelled: "\u2715", completed: "\u2713", pause: "\u2016" };

export function Timeline({ build, events, now }) {
  const frame = useRef();
  const [width, setWidth] = useState(600);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(240, entry.contentRect.width)));
    observer.observe(frame.current);
    return () => observer.disconnect();
  }, []);
  const told = history(events, now);
  const { to, gaps } = scale(told);
  const longest = Math.max(0, ...told.rows.map((name) => name.length));
  const label = Math.round(Math.min(220, width * 0.36, 18 + longest * LETTER));
  const room = width - label - 14;
  const x = (at) => label + 4 + to(at) * room;
  const height = TOP + told.rows.length * ROW + 6;
  const y = (checkpoint) => TOP + told.rows.indexOf(checkpoint) * ROW;
  return html`<div class="timeline" ref=${frame}>
    <svg width=${width} height=${height} role="group" aria-label="Timeline">
      ${told.rows.map(
        (name, index) => html`<g key=${name}>
          <rect x="0" y=${TOP + index * ROW} width=${width} height=${ROW} class=${index % 2 ? "lane" : "lane odd"} />
          <text x="6" y=${TOP + index * ROW + 17} class="lane-name">${short(printable(name), label)}</text></g>`,
      )}
      ${told.pauses.map((pause) => band(pause, x, height))}
      ${gaps.map((gap) => html`<text class="gap" text-anchor="middle" y=${13}
        x=${(x(gap.begin) + x(gap.end)) / 2}>\u22ef ${duration(gap.end - gap.begin)}</text>`)}
      ${told.attempts.map((each) => bar(build, each, x, y))}
      ${told.marks.map((mark) => sign(mark, x, height, width))}
    </svg>
    <ul class="marks">${[...told.marks, ...told.pauses.map((pause) => ({ ...pause, at: pause.begin, kind: "pause" }))]
      .filter((mark) => mark.kind !== "completed")
      .sort((one, other) => one.at - other.at)
      .map((mark) => html`<li><span aria-hidden="true">${SYMBOLS[mark.kind]}</span>${" "}
        ${time(mark.at * 1000)}: ${printable(mark.words)}</li>`)}</ul>
  </div>`;
}

const short = (name, width) => {
  const room = Math.max(4, Math.floor((width - 8) / LETTER));
  return name.length > room ? `${name.slice(0, room - 1)}\u2026` : name;
};

function band(pause, x, height) {
  const left = x(pause.begin);
  return html`<rect class="pause" x=${left} y=${TOP} width=${Math.max(2, x(pause.end) - left)}
    height=${height - TOP - 6}><title>${printable(pause.words)}</title></rect>`;
}

function bar(build, each, x, y) {
  const left = x(each.begin);
  const wide = Math.max(5, x(each.end) - left);
  const words = [each.checkpoint, each.state, each.attempt ? duration(each.end - each.begin) : "", each.words];
  const text = words.filter(Boolean).map(printable).join(", ");
  const shape = html`<rect class=${`bar bar-${each.state}`} x=${left} y=${y(each.checkpoint) + 5}
    width=${wide} height=${ROW - 10} rx="3"><title>${text}</title></rect>`;
  if (!each.attempt) return shape;
  return html`<a key=${`${each.checkpoint} ${each.attempt} ${each.begin}`} aria-label=${`Log: ${text}`}
    href=${`#/builds/${build}/log/${encodeURIComponent(each.checkpoint)}/${each.attempt}`}>${shape}</a>`;
}

function sign(mark, x, height, width) {
  const at = Math.min(Math.max(x(mark.at), 6), width - 8);
  return html`<g class=${`mark mark-${mark.kind}`}><title>${printable(mark.words)}</title>
    <line x1=${at} x2=${at} y1=${TOP - 4} y2=${height - 6} />
    <text x=${at} y="13" text-anchor="middle">${SYMBOLS[mark.kind]}</text></g>`;
}
