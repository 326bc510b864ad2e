// The page of the host: the members of its farm, what runs and waits, its examination, the use of space, the settings.
import { html } from "./html.js";
import { Members, hostOf, waitOf } from "./farm.js";
import { plural, printable, size } from "./format.js";
import { builds, connection, me } from "./live.js";
import { MOVING } from "./builds.js";
import { Link, Note, State, Trouble, useAnswer } from "./parts.js";
import { askJson } from "./session.js";

export function Host() {
  const again = [connection.value.state];
  const active = [...builds.value.values()].filter((build) => MOVING.includes(build.state));
  return html`<h1>Host</h1>
    <${Members} />
    <section><h2>Running and waiting</h2>
      ${active.length ? html`<ul class="plain">${active.map((build) => html`<li key=${build.id}>
        <${State} state=${build.state} />${" "}<${Link} to=${`/builds/${build.id}`}>${printable(build.name)}<//>${" "}
        <span class="build-id">${build.id}</span> <span class="why">${printable(situation(build))}</span></li>`)}</ul>`
        : html`<${Note}>Nothing runs or waits.<//>`}</section>
    <${You} />
    <${Doctor} again=${again} /><${Space} again=${again} /><${Settings} again=${again} />`;
}

// Why it waits, or where it is.
function situation(build) {
  if (build.state === "queued") return build.reason || waitOf(build.id);
  const host = hostOf(build.id);
  return [host && `on ${host}`, build.reason].filter(Boolean).join(": ");
}

function You() {
  if (!me.value) return null;
  const { user, uid, roles } = me.value;
  return html`<section><h2>You</h2><p>${printable(user)}${uid === null ? "" : ` (uid ${uid})`}:
    ${roles.length ? ` ${roles.join(", ")}` : " no role"}</p></section>`;
}

function Doctor({ again }) {
  const { value, problem } = useAnswer(() => askJson("/v1/doctor"), again);
  const checks = value ? value.checks : [];
  const order = { missing: 0, warning: 1, ok: 2 };
  const sorted = [...checks].sort((a, b) => (order[a.status] ?? 0) - (order[b.status] ?? 0));
  return html`<section><h2>Examination</h2>
    ${problem ? html`<${Trouble} problem=${problem} heading="h3" />` : null}
    ${!value && !problem ? html`<${Note}>Examining\u2026<//>` : null}
    ${value ? html`<div class="scrolls" tabindex="0" role="region" aria-label="Examination"><table>
      <thead><tr><th scope="col">What</th><th scope="col">Result</th><th scope="col">Details</th></tr></thead>
      <tbody>${sorted.map((check) => html`<tr key=${check.name}><th scope="row">${printable(check.name)}</th>
        <td><span class=${`state check-${check.status}`}><span class="dot" aria-hidden="true"></span>${check.status}</span></td>
        <td>${printable(check.value)}${check.remedy ? html`<p class="remedy">${printable(check.remedy)}</p>` : null}</td></tr>`)}
      </tbody></table></div>` : null}</section>`;
}

const KINDS = [
  ["layer_bytes", "Layers"], ["workspace_bytes", "Workspaces"], ["artifact_bytes", "Artifacts"],
  ["log_bytes", "Logs"], ["package_bytes", "Packages"], ["blob_bytes", "Captured inputs"], ["event_log_bytes", "Event log"],
];

function Space({ again }) {
  const { value, problem } = useAnswer(() => askJson("/v1/df"), again);
  if (problem) return html`<section><h2>Space</h2><${Trouble} problem=${problem} heading="h3" /></section>`;
  if (!value) return null;
  const largest = Math.max(1, ...value.builds.map(total));
  return html`<section><h2>Space</h2>
    <p>${size(value.free_bytes)} free of ${size(value.total_bytes)}, in <code>${printable(value.state_dir)}</code></p>
    <p class="build-facts">${KINDS.map(([field, name]) => html`<span>${name} ${size(value[field])}</span>`)}</p>
    ${value.builds.length ? html`<div class="scrolls" tabindex="0" role="region" aria-label="Space by build"><table>
      <thead><tr><th scope="col">Build</th><th scope="col">State</th><th scope="col" class="right">Layers</th>
        <th scope="col" class="right">Artifacts</th><th scope="col" class="right">Logs</th><th scope="col" class="right">In all</th><th scope="col"><span class="unseen">Share</span></th></tr></thead>
      <tbody>${value.builds.slice(0, 100).map((each) => html`<tr key=${each.build}>
        <th scope="row">${each.state === "removed" ? each.build : html`<${Link} to=${`/builds/${each.build}`}>${printable(each.name || each.build)}<//>`} <span class="build-id">${each.build}</span></th>
        <td>${each.state}</td><td class="right">${size(each.layer_bytes)}</td><td class="right">${size(each.artifact_bytes)}</td>
        <td class="right">${size(each.log_bytes)}</td><td class="right">${size(total(each))}</td>
        <td><span class="share"><span style=${{ width: `${Math.round((100 * total(each)) / largest)}%` }}></span></span></td></tr>`)}</tbody></table></div>
      ${value.builds.length > 100 ? html`<${Note}>${plural(value.builds.length - 100, "more build")}: dcctl df<//>` : null}` : null}</section>`;
}

const total = (each) => each.layer_bytes + each.workspace_bytes + each.artifact_bytes + each.log_bytes;

function Settings({ again }) {
  const { value, problem } = useAnswer(() => askJson("/v1/config"), again);
  if (problem && problem.status === 403)
    return html`<section><h2>Settings</h2><${Note}>The settings are for users with the role administer.<//></section>`;
  if (problem) return html`<section><h2>Settings</h2><${Trouble} problem=${problem} heading="h3" /></section>`;
  if (!value) return null;
  return html`<section><h2>Settings</h2><div class="scrolls" tabindex="0" role="region" aria-label="Settings"><table>
    <thead><tr><th scope="col">Setting</th><th scope="col">Value</th><th scope="col">Origin</th></tr></thead>
    <tbody>${value.settings.map((each) => html`<tr key=${each.name}><th scope="row"><code>${each.name}</code></th>
      <td>${each.unit === "bytes" ? size(each.value) : `${printable(words(each.value))} ${each.unit}`}${each.waiting ? html`<p class="warn">after a restart: ${printable(words(each.waiting.value))}</p>` : null}</td>
      <td>${printable(each.origin)}</td></tr>`)}</tbody></table></div></section>`;
}

const words = (value) => (Array.isArray(value) ? value.join(", ") || "none" : typeof value === "object" && value !== null ? JSON.stringify(value) : String(value));
