// The members of a farm, where builds are and why they wait: asked for every few seconds. A single machine has none.
import { html, signal } from "./html.js";
import { duration, printable } from "./format.js";
import { builds, connection } from "./live.js";
import { Link, Trouble } from "./parts.js";
import { askJson, locked } from "./session.js";

const EACH_MS = 5000;
const NAMED = 8; // builds of a member that are shown

const farm = signal({ hosts: [], waits: [] });
const trouble = signal(null); // why the members are not known

export async function watchFarm() {
  for (;;) {
    if (!document.hidden && !["away", "gone"].includes(connection.value.state)) {
      try {
        farm.value = await askJson("/v1/hosts");
        trouble.value = null;
        if (!farm.value.hosts.length) return; // a single machine, or a daemon that knows of no farms
      } catch (problem) {
        if (locked.value || problem.status === 403 || problem.status === 404) return;
        trouble.value = problem;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, EACH_MS));
  }
}

// The member that has an unfinished build.
export const hostOf = (build) => (farm.value.hosts.find((each) => each.builds.includes(build)) || { host: "" }).host;

// Why no member has taken a queued build.
export function waitOf(build) {
  const found = (farm.value.waits || []).find((each) => each.build === build);
  return found && found.reason ? `waits: ${found.reason}` : "";
}

const STATES = { up: "ok", draining: "warning", lost: "missing", "never seen": "warning" };

export function Members() {
  const { hosts } = farm.value;
  if (trouble.value) return html`<section><h2>Members</h2><${Trouble} problem=${trouble.value} heading="h3" /></section>`;
  if (!hosts.length) return null;
  return html`<section><h2>Members</h2><div class="scrolls" tabindex="0" role="region" aria-label="Members"><table>
    <thead><tr><th scope="col">Host</th><th scope="col">State</th><th scope="col">Heard</th><th scope="col">Labels</th><th scope="col">Builds</th></tr></thead>
    <tbody>${hosts.map((each) => html`<tr key=${each.host}><th scope="row">${printable(each.host)}
        ${(each.warnings || []).map((text) => html`<p class="warn">${printable(text)}</p>`)}</th>
      <td><span class=${`state check-${STATES[each.state] || "ok"}`}><span class="dot" aria-hidden="true"></span>${printable(each.state)}</span></td>
      <td>${each.silent_seconds === null ? "never" : `${duration(each.silent_seconds)} ago`}</td>
      <td>${labels(each)}</td><td><${Owned} ids=${each.builds} /></td></tr>`)}</tbody></table></div></section>`;
}

// Every host has many tools: dcctl hosts --json lists them.
const labels = (host) => host.labels.filter((label) => !label.startsWith("tool:")).map(printable).join(", ") || "none";

const Owned = ({ ids }) => html`<ul class="plain">${ids.slice(0, NAMED).map((id) => {
    const known = builds.value.get(id);
    return html`<li key=${id}><${Link} to=${`/builds/${id}`}>${printable(known ? known.name : id)}<//>
      ${known ? html` <span class="build-id">${id}</span> <span class="why">${known.state}</span>` : null}</li>`;
  })}${ids.length > NAMED ? html`<li>and ${ids.length - NAMED} more</li>` : null}</ul>`;
