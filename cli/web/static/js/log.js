// The log of an attempt: a stream while the attempt runs, else read in pieces, and searched here. Only the lines
// in sight are elements, so a log of any size scrolls. Its text is only ever text.
import { html, useEffect, useMemo, useRef, useState } from "./html.js";
import { plural, size, terminal } from "./format.js";
import { Note, Trouble } from "./parts.js";
import { ask, buildPath } from "./session.js";

const LINE = 18;
const TALLEST = 8_000_000; // browsers do not lay out taller elements exactly
const MOST_BYTES = 32 * 1024 * 1024;
const LONGEST = 4000; // characters of a line that are shown
const EACH_MS = 700;
const STREAMS = ["dcd-log-1", "dcd-log-2"];

// Reads a log from `offset` on, calls `add` with its lines, and continues while `moving()`.
async function read(path, offset, add, moving, abort) {
  const decoder = new TextDecoder();
  let rest = "";
  let last = false;
  const take = (bytes) => {
    offset += bytes.byteLength;
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop();
    add(lines, rest);
  };
  await inTurn(async () => {
    while (moving() && !(await streamed(`${path}?follow=true&offset=${offset}`, take, abort)))
      await new Promise((done) => setTimeout(done, EACH_MS));
  });
  for (;;) {
    const ends = !moving();
    const bytes = await piece(`${path}?offset=${offset}`, ends, abort);
    if (bytes.byteLength || last) take(bytes);
    if (bytes.byteLength) continue;
    if (ends && last) return;
    last = ends; // once more: it may have grown between the last piece and its end
    if (!ends) await new Promise((done) => setTimeout(done, EACH_MS));
  }
}

// Calls `work` if fewer than two tabs follow a log: a browser opens only six connections to a server.
async function inTurn(work) {
  for (const name of STREAMS) {
    const turn = async (lock) => lock && (await work(), true);
    if (await navigator.locks.request(name, { ifAvailable: true }, turn)) return;
  }
}

// Takes what is written until the attempt ends. False when the daemon is away, or knows of no log yet.
async function streamed(path, take, abort) {
  try {
    const reader = (await ask(path, { signal: abort })).body.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return true;
      take(value);
    }
  } catch (problem) {
    if (problem.status !== 404 && !isAway(problem)) throw problem;
    return false;
  }
}

const isAway = (problem) =>
  problem.status === 503 || problem.status === 0 || problem instanceof TypeError; // it broke off

// The next bytes; none while the attempt runs and has not written yet. Waits for a daemon that is away.
async function piece(path, ends, abort) {
  for (;;) {
    try {
      return await (await ask(path, { signal: abort })).arrayBuffer();
    } catch (problem) {
      if (problem.status === 404 && !ends) return new ArrayBuffer(0);
      if (!isAway(problem)) throw problem;
      await new Promise((done) => setTimeout(done, EACH_MS));
    }
  }
}

export function Log({ build, checkpoint, attempt, bytes, moving, line }) {
  const [text, setText] = useState({ lines: [], rest: "" });
  const [problem, setProblem] = useState(null);
  const running = useRef(moving);
  running.current = moving;
  const skipped = Math.max(0, bytes - MOST_BYTES);
  useEffect(() => {
    const aborting = new AbortController();
    const lines = [];
    setText({ lines, rest: "" });
    setProblem(null);
    read(
      buildPath(build, "logs", checkpoint, String(attempt)),
      skipped,
      (more, rest) => {
        for (const each of more) lines.push(each);
        setText({ lines, rest });
      },
      () => running.current,
      aborting.signal,
    ).catch((error) => aborting.signal.aborted || setProblem(error));
    return () => aborting.abort();
  }, [build, checkpoint, attempt]);
  return html`${problem ? html`<${Trouble} problem=${problem} heading="h3" />` : null}
    ${skipped ? html`<${Note}>The first ${size(skipped)} are not shown: <code>dcctl logs ${build} ${checkpoint}</code><//>` : null}
    <${Lines} text=${text} moving=${moving} line=${line}
      at=${`/builds/${build}/log/${encodeURIComponent(checkpoint)}/${attempt}`} />`;
}

function Lines({ text, moving, line, at }) {
  const { lines, rest } = text;
  const count = lines.length + (rest ? 1 : 0);
  const frame = useRef();
  const [view, setView] = useState({ top: 0, height: 400 });
  const [following, setFollowing] = useState(moving && !line);
  const [wanted, setWanted] = useState("");
  const [chosen, setChosen] = useState(0);
  const whole = Math.min(count * LINE, TALLEST);
  const first = whole < count * LINE
    ? Math.round((view.top / Math.max(1, whole - view.height)) * Math.max(0, count - view.height / LINE))
    : Math.floor(view.top / LINE);
  const many = Math.ceil(view.height / LINE) + 1;
  const found = useMemo(() => search(lines, wanted), [lines, lines.length, wanted]);
  const of = (index) => (index < lines.length ? lines[index] : rest);

  const goTo = (index) => {
    const element = frame.current;
    if (!element) return;
    const share = Math.max(0, index - 5) / Math.max(1, count - element.clientHeight / LINE);
    element.scrollTop = whole < count * LINE ? share * (whole - element.clientHeight) : Math.max(0, index - 5) * LINE;
  };
  const next = (step) => {
    if (!found.length) return;
    const place = (chosen + step + found.length) % found.length;
    setChosen(place);
    setFollowing(false);
    goTo(found[place]);
  };
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setView((old) => ({ ...old, height: entry.contentRect.height })));
    observer.observe(frame.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (following) frame.current.scrollTop = frame.current.scrollHeight;
  }, [following, count]);
  useEffect(() => {
    if (line && line <= count) goTo(line - 1);
  }, [line, line <= count]);
  useEffect(() => {
    setChosen(0);
    if (wanted && found.length) goTo(found[0]);
  }, [wanted]);

  const onScroll = (event) => {
    const { scrollTop, clientHeight, scrollHeight } = event.currentTarget;
    setView({ top: scrollTop, height: clientHeight });
    setFollowing(moving && scrollTop + clientHeight >= scrollHeight - LINE);
  };
  const shown = [];
  for (let index = Math.max(0, first); index < Math.min(count, first + many); index += 1)
    shown.push(html`<${Line} key=${index} number=${index + 1} text=${of(index)} wanted=${wanted} at=${at}
      marked=${line === index + 1 || (wanted && found[chosen] === index)} />`);
  return html`<div class="log-tools">
      <label class="field"><span class="unseen">Search the log</span>
        <input type="search" placeholder="Search the log" value=${wanted}
          onInput=${(event) => setWanted(event.currentTarget.value)}
          onKeyDown=${(event) => event.key === "Enter" && next(event.shiftKey ? -1 : 1)} /></label>
      ${wanted ? html`<span class="hint" role="status">${found.length ? `${chosen + 1} of ${found.length}` : "not found"}</span>
        <button type="button" class="quiet" onClick=${() => next(-1)} aria-label="Previous match">\u2191</button>
        <button type="button" class="quiet" onClick=${() => next(1)} aria-label="Next match">\u2193</button>` : null}
      <span class="hint">${plural(count, "line")}</span>
      ${moving ? html`<label class="check"><input type="checkbox" checked=${following}
        onChange=${(event) => setFollowing(event.currentTarget.checked)} /> follow</label>` : null}
    </div>
    <div class="log" ref=${frame} tabindex="0" role="region" aria-label="Log" onScroll=${onScroll}>
      <div class="log-whole" style=${{ height: `${whole}px` }}>
        <div class="log-shown" style=${{ transform: `translateY(${whole < count * LINE ? Math.min(view.top, whole - shown.length * LINE) : first * LINE}px)` }}>${shown}</div>
      </div>
    </div>`;
}

function search(lines, wanted) {
  if (!wanted) return [];
  const word = wanted.toLowerCase();
  const found = [];
  for (let index = 0; index < lines.length; index += 1)
    if (lines[index].toLowerCase().includes(word)) found.push(index);
  return found;
}

function Line({ number, text, wanted, marked, at }) {
  const more = Math.max(0, text.length - LONGEST);
  const shown = terminal(text.slice(0, LONGEST));
  return html`<div class=${marked ? "line marked" : "line"}>
    <a class="number" href=${`#${at}/${number}`} aria-label=${`Link to line ${number}`} tabindex="-1">${number}</a>
    <span class="text">${wanted ? highlighted(shown, wanted) : shown}${
      more ? html`<em> \u2026 ${more} more characters</em>` : null}</span></div>`;
}

function highlighted(text, wanted) {
  const parts = [];
  const lower = text.toLowerCase();
  let begin = 0;
  for (let at = lower.indexOf(wanted.toLowerCase()); at >= 0; at = lower.indexOf(wanted.toLowerCase(), begin)) {
    parts.push(text.slice(begin, at), html`<mark>${text.slice(at, at + wanted.length)}</mark>`);
    begin = at + wanted.length;
  }
  return [...parts, text.slice(begin)];
}
