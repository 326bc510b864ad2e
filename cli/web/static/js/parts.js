// Small parts that several pages use.
import { html, useEffect, useRef, useState } from "./html.js";
import { plural, printable } from "./format.js";

export const State = ({ state }) =>
  html`<span class=${`state state-${state}`}><span class="dot" aria-hidden="true"></span>${state}</span>`;

// A link that keeps the token when it is opened in another tab: such a tab gets a copy of the session only
// from the one that opened it.
export const Link = ({ to, children, ...rest }) =>
  html`<a href=${`#${to}`} onClick=${elsewhere} onAuxClick=${elsewhere} ...${rest}>${children}</a>`;

function elsewhere(event) {
  if (event.button === 1 || (event.button === 0 && (event.ctrlKey || event.metaKey || event.shiftKey))) {
    event.preventDefault();
    open(event.currentTarget.href, "_blank");
  }
}

// The checkpoints of a build as a strip of coloured pieces, as wide as they are expected to last.
export function Strip({ pieces, fraction }) {
  const counts = {};
  for (const piece of pieces) counts[piece.state] = (counts[piece.state] || 0) + 1;
  const words = Object.entries(counts).map(([state, count]) => `${count} ${state}`);
  const total = pieces.reduce((sum, piece) => sum + weight(piece), 0) || 1;
  return html`<span class="strip" role="img" aria-label=${`${plural(pieces.length, "checkpoint")}: ${words.join(", ")}`}>
    ${pieces.map(
      (piece, index) => html`<span key=${index} class=${`piece piece-${piece.state}`}
        style=${{ flexGrow: Math.round((1000 * weight(piece)) / total) }}
        title=${`${printable(piece.name || "")} ${piece.state}`}>
        ${piece.state === "running" && fraction !== null && fraction !== undefined
          ? html`<span class="filled" style=${{ width: `${Math.round(fraction * 100)}%` }}></span>`
          : null}</span>`,
    )}</span>`;
}

const weight = (piece) => Math.max(1, Math.sqrt(piece.estimate_seconds || 1));

// An error as the command line says it: what, why, and first of all what to do.
export function Trouble({ problem, heading = "h2", children }) {
  const { brief = problem.message || problem.title, resolution } = problem;
  const details = problem.details || problem.detail;
  return html`<section class="trouble" role="alert">
    <${heading}>${printable(brief)}<//>
    ${resolution ? html`<p class="remedy"><strong>What to do:</strong> ${lines(resolution)}</p>` : null}
    ${children}
    ${details ? html`<pre class="details" tabindex="0">${lines(details)}</pre>` : null}
  </section>`;
}

const lines = (text) => text.split("\n").map(printable).join("\n");

export const Note = ({ children }) => html`<p class="hint">${children}</p>`;

// A command, and a button that copies it.
export function Command({ children }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(children).catch(() => {});
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<span class="command"><code>${printable(children)}</code>
    <button type="button" class="quiet" aria-label=${`Copy: ${children}`} onClick=${copy}>
      ${copied ? "copied" : "copy"}</button></span>`;
}

// Asks before something that cannot be undone.
export function Confirm({ question, command, onYes, onNo }) {
  const dialog = useRef();
  useEffect(() => dialog.current.showModal(), []);
  return html`<dialog ref=${dialog} onClose=${onNo} aria-labelledby="question">
    <h2 id="question">${question}</h2>
    <p><code>${command}</code></p>
    <p class="row"><button type="button" onClick=${() => dialog.current.close()}>No</button>
      <button type="button" class="danger" onClick=${onYes}>Yes</button></p>
  </dialog>`;
}

// A result of the API: reads it when `path` changes, or `again` does.
export function useAnswer(read, again) {
  const [answer, setAnswer] = useState({});
  useEffect(() => {
    let current = true;
    read().then(
      (value) => current && setAnswer({ value }),
      (problem) => current && setAnswer({ problem }),
    );
    return () => {
      current = false;
    };
  }, again);
  return answer;
}

// The time, each second while `moving`.
export function useNow(moving) {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    if (!moving) return undefined;
    const timer = setInterval(() => setNow(Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, [moving]);
  return moving ? Math.max(now, Date.now() / 1000 - 1) : now;
}
