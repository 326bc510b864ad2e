// The page of one build.
import { html, useEffect, useState } from "./html.js";
import { Actions } from "./actions.js";
import { Artifacts } from "./artifacts.js";
import { MOVING, pieces, took } from "./builds.js";
import { Changes } from "./changes.js";
import { Checkpoints } from "./checkpoints.js";
import { waitOf } from "./farm.js";
import { printable, time } from "./format.js";
import { builds, progress, subscribe } from "./live.js";
import { Log } from "./log.js";
import { Command, Note, State, Strip, Trouble, useAnswer, useNow } from "./parts.js";
import { Screens } from "./screens.js";
import { askJson, buildPath } from "./session.js";
import { Timeline } from "./timeline.js";

const EVENTS = 2000;
const REST_MS = 250; // the view is read again at most so often

// The build's view and all its events, kept current.
function useBuild(id) {
  const [known, setKnown] = useState({ events: [] });
  useEffect(() => {
    let current = true;
    let timer = null;
    let events = [];
    const show = (more) => current && setKnown((old) => ({ ...old, ...more }));
    const fail = (problem) => show({ problem });
    const look = () => {
      timer = null;
      return askJson(buildPath(id)).then((view) => show({ view: { ...view, seen_at: Date.now() / 1000 }, problem: undefined }), fail);
    };
    const later = () => {
      timer ??= setTimeout(look, REST_MS);
    };
    const add = (more) => {
      const last = events.length ? events[events.length - 1].position : 0;
      const fresh = more.filter((event) => event.position > last);
      if (fresh.length) events = [...events, ...fresh];
      show({ events });
    };
    const catchUp = async () => {
      let after = events.length ? events[events.length - 1].position : 0;
      while (after !== null) {
        const page = await askJson(`${buildPath(id, "events")}?after=${after}&limit=${EVENTS}`);
        add(page.events);
        after = page.next;
      }
    };
    let read = Promise.resolve();
    const leave = subscribe((event) => {
      if (event === null) events = [];
      else if (event.build !== id) return;
      // In order, and after what is being read.
      read = read.then(() => (event === null ? catchUp() : add([event]))).catch(fail);
      later();
    });
    setKnown({ events: [] });
    read = catchUp().catch(fail);
    look();
    return () => {
      current = false;
      clearTimeout(timer);
      leave();
    };
  }, [id]);
  return known;
}

export function Build({ id, checkpoint, attempt, line }) {
  const { view, events, problem } = useBuild(id);
  const now = useNow(Boolean(view) && MOVING.includes(view.state));
  if (!view) return problem ? html`<h1>${printable(id)}</h1><${Trouble} problem=${problem} />` : html`<${Note}>Loading\u2026<//>`;
  const report = MOVING.includes(view.state) ? progress.value.get(id) : undefined;
  const why = view.reason || (view.state === "queued" ? waitOf(id) : "");
  const changes = events.length ? events[events.length - 1].position : 0;
  return html`<header class="build-title">
      <h1>${printable(view.name)}</h1> <${State} state=${view.state} /> <span class="build-id">${id}</span>
    </header>
    <p class="build-facts"><span>${took(view, report, now)}</span>
      ${view.host && view.state !== "queued" ? html`<span>on ${printable(view.host)}</span>` : null}
      <span>${printable(view.actor.user)}, ${time(view.submitted_at)}</span>
      ${why && !(view.error && view.error.brief === why) ? html`<span class="why">${printable(why)}</span>` : null}
      ${view.manifest_path ? html`<span>${printable(view.manifest_path)}</span>` : null}</p>
    ${view.error && view.state === "failed" ? html`<${Trouble} problem=${view.error}><${Next} view=${view} /><//>` : null}
    ${problem ? html`<${Trouble} problem=${problem} />` : null}
    <${Strip} pieces=${pieces({ ...summary(id), ...view })} fraction=${report ? report.fraction : null} />
    ${report && report.message ? html`<p class="hint">${printable(report.checkpoint)}: ${printable(report.message)}</p>` : null}
    <${Actions} view=${view} />
    <section><h2>Timeline</h2>
      <${Timeline} build=${id} events=${events} now=${now} /></section>
    <${Logs} view=${view} changes=${changes} checkpoint=${checkpoint} attempt=${attempt} line=${line} />
    <${Screens} view=${view} changes=${changes} />
    <${Checkpoints} view=${view} events=${events} />
    <${Artifacts} view=${view} />
    <${Changes} view=${view} events=${events} />`;
}

// What can be done about a failure, beside its remedy.
const Next = ({ view }) => html`<ul class="next">
  <li>To look at it: <${Command}>${`dcctl shell ${view.id}`}<//></li>
  <li>After an edit: <${Command}>${`dcctl resume ${view.id} --manifest ${view.manifest_path}`}<//></li>
  <li>To run it again unchanged: <${Command}>${`dcctl retry ${view.id}`}<//></li></ul>`;

const summary = (id) => builds.value.get(id) || {};

// The log of the chosen attempt; without a choice of the failed one, the running one, or the last.
function Logs({ view, changes, checkpoint, attempt, line }) {
  const { value, problem } = useAnswer(() => askJson(buildPath(view.id, "logs")), [view.id, changes]);
  const logs = value ? [...value.logs] : [];
  const telling = view.checkpoints.find((each) => each.state === "running" || each.state === "failed");
  if (value && telling && !logs.some((log) => log.checkpoint === telling.name && log.attempt === telling.attempts))
    logs.push({ checkpoint: telling.name, attempt: telling.attempts, size_bytes: 0 }); // it begins just now
  const latest = (name) => logs.filter((log) => log.checkpoint === name).at(-1);
  const chosen =
    logs.find((log) => log.checkpoint === checkpoint && log.attempt === attempt) ||
    (telling && latest(telling.name)) ||
    logs.at(-1);
  const moving =
    chosen !== undefined &&
    view.checkpoints.some(
      (each) => each.name === chosen.checkpoint && each.state === "running" && each.attempts === chosen.attempt,
    );
  useEffect(() => {
    // A chosen attempt, for instance in the timeline, comes into sight.
    if (checkpoint) document.getElementById("log").scrollIntoView({ block: "start" });
  }, [checkpoint, attempt]);
  const choose = (event) => {
    const log = logs[Number(event.currentTarget.value)];
    location.hash = `/builds/${view.id}/log/${encodeURIComponent(log.checkpoint)}/${log.attempt}`;
  };
  return html`<section id="log"><h2>Log</h2>
    ${problem ? html`<${Trouble} problem=${problem} heading="h3" />` : null}
    ${chosen
      ? html`<label class="field wide"><span class="unseen">Attempt</span>
          <select onChange=${choose}>${logs.map(
            (log, index) => html`<option value=${index} selected=${log === chosen}>
              ${printable(log.checkpoint)}, attempt ${log.attempt}</option>`,
          )}</select></label>
        <${Log} key=${`${view.id} ${chosen.checkpoint} ${chosen.attempt}`} build=${view.id} checkpoint=${chosen.checkpoint}
          attempt=${chosen.attempt} bytes=${chosen.size_bytes} moving=${moving} line=${line} />`
      : problem ? null : html`<${Note}>No attempt has begun.<//>`}
  </section>`;
}

