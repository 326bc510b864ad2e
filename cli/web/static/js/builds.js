// The page of all builds: newest first, live.
import { html, useState } from "./html.js";
import { duration, printable, seconds, time } from "./format.js";
import { hostOf, waitOf } from "./farm.js";
import { builds, failure, loadOlder, more, progress } from "./live.js";
import { Link, Note, State, Strip, Trouble, useNow } from "./parts.js";

export const MOVING = ["queued", "running", "pausing", "cancelling"];

const GROUPS = {
  all: () => true,
  active: (build) => MOVING.includes(build.state),
  paused: (build) => build.state === "paused",
  failed: (build) => build.state === "failed",
  completed: (build) => build.state === "completed",
  cancelled: (build) => build.state === "cancelled",
};

// The checkpoints of a summary; of a daemon without them in its list, as many pieces as it counts.
export function pieces(build) {
  if (build.checkpoints && build.checkpoints.length) return build.checkpoints;
  const now = { running: "running", pausing: "running", failed: "failed" }[build.state] || "pending";
  return Array.from({ length: build.total_checkpoints }, (_, index) => ({
    state:
      index < build.completed_checkpoints
        ? "completed"
        : index === build.completed_checkpoints
          ? now
          : "pending",
  }));
}

export function Builds() {
  const [group, setGroup] = useState("all");
  const [text, setText] = useState("");
  const all = [...builds.value.values()];
  const now = useNow(all.some((build) => MOVING.includes(build.state)));
  const wanted = text.trim().toLowerCase();
  const shown = all.filter(
    (build) =>
      GROUPS[group](build) &&
      [build.id, build.name, build.actor.user].some((word) => word.toLowerCase().includes(wanted)),
  );
  return html`<h1>Builds</h1>
    <div class="filters" role="search">
      <label class="field"><span class="unseen">Name, id or user</span>
        <input type="search" placeholder="Name, id or user" value=${text}
          onInput=${(event) => setText(event.currentTarget.value)} /></label>
      <div class="chips" role="group" aria-label="State">
        ${Object.keys(GROUPS).map(
          (name) => html`<button type="button" class="chip" aria-pressed=${String(group === name)}
            onClick=${() => setGroup(name)}>${name}
            <span class="count">${all.filter(GROUPS[name]).length}</span></button>`,
        )}</div>
    </div>
    ${failure.value ? html`<${Trouble} problem=${failure.value} />` : null}
    <ul class="builds" aria-label="Builds">
      ${shown.map((build) => html`<${Row} key=${build.id} build=${build} now=${now} />`)}
    </ul>
    ${shown.length ? null : html`<${Empty} any=${all.length > 0} />`}
    ${more.value === null ? null : html`<p><button type="button" onClick=${loadOlder}>Older builds</button></p>`}`;
}

const Empty = ({ any }) =>
  any
    ? html`<${Note}>No build matches.<//>`
    : html`<${Note}>There is no build yet. In a terminal: <code>dcctl submit MANIFEST</code><//>`;

function Row({ build, now }) {
  const moving = MOVING.includes(build.state);
  const report = moving ? progress.value.get(build.id) : undefined;
  const host = moving && build.state !== "queued" ? hostOf(build.id) : "";
  const why = build.reason || (build.state === "queued" ? waitOf(build.id) : "");
  const later = build.superseded_by ? `superseded by ${build.superseded_by}` : "";
  return html`<li class="build">
    <div class="build-head">
      <${Link} to=${`/builds/${build.id}`} class="build-name">${printable(build.name)}<//>
      <${State} state=${build.state} />
      <span class="build-id">${build.id}</span>
    </div>
    <${Strip} pieces=${pieces(build)} fraction=${report ? report.fraction : null} />
    <div class="build-facts">
      <span>${took(build, report, now)}</span>
      ${host ? html`<span>on ${printable(host)}</span>` : null}
      <span>${printable(build.actor.user)}, ${time(build.submitted_at)}</span>
      ${why || later ? html`<span class="why">${printable(why || later)}</span>` : null}
    </div>
  </li>`;
}

// How long a build took, or how far it is and when it is likely to end.
export function took(build, report, now) {
  const since = now - seconds(build.submitted_at);
  if (build.state === "queued") return `waits since ${duration(since)}`;
  if (!MOVING.includes(build.state))
    return duration(build.elapsed_seconds || seconds(build.updated_at) - seconds(build.submitted_at));
  const age = build.seen_at ? Math.max(0, now - build.seen_at) : 0;
  const fraction = report ? report.build_fraction : build.fraction;
  const parts = [duration(build.elapsed_seconds ? build.elapsed_seconds + age : since)];
  if (fraction) parts.push(`${Math.floor(fraction * 100)} %`);
  if (build.remaining_seconds) parts.push(`about ${duration(Math.max(1, build.remaining_seconds - age))} left`);
  else if (fraction > 0.02) parts.push(`about ${duration((since * (1 - fraction)) / fraction)} left`);
  if (report) parts.push(printable(report.checkpoint));
  return parts.join(" \u00b7 ");
}
