// The checkpoints of a build: how each ended, from where its result is, and why it ran.
import { html } from "./html.js";
import { duration, printable } from "./format.js";
import { reasons } from "./history.js";
import { builds } from "./live.js";
import { Link, State, useAnswer } from "./parts.js";
import { askJson, buildPath } from "./session.js";

// The newest build of the same name that was submitted before this one.
export function previous(view) {
  return [...builds.value.values()].find(
    (build) => build.name === view.name && build.id !== view.id && build.submitted_at < view.submitted_at,
  );
}

export const planOf = (events) =>
  events.reduce((plan, { data }) => data.plan || plan, null);

export function Checkpoints({ view, events }) {
  const earlier = previous(view);
  const { value } = useAnswer(
    async () => (earlier ? (await askJson(`${buildPath(earlier.id, "events")}?limit=1`)).events : []),
    [earlier && earlier.id],
  );
  const plan = planOf(events);
  const before = value && planOf(value);
  const why = plan ? reasons(plan, before) : new Map();
  return html`<section><h2>Checkpoints</h2>
    <div class="scrolls" tabindex="0" role="region" aria-label="Checkpoints"><table>
      <thead><tr><th scope="col">Checkpoint</th><th scope="col">State</th><th scope="col" class="right">Took</th>
        <th scope="col">Why</th></tr></thead>
      <tbody>${view.checkpoints.map(
        (each) => html`<tr key=${each.name}>
          <th scope="row" title=${printable(each.description)}>${printable(each.name)}</th>
          <td><${State} state=${each.state} /></td>
          <td class="right">${each.seconds === null && each.state !== "reused"
            ? html`<span class="hint">~${duration(each.estimate_seconds)}</span>`
            : duration(each.seconds)}</td>
          <td class="reason">${reason(each, why.get(each.name) || [], earlier)}</td></tr>`,
      )}</tbody></table></div>
  </section>`;
}

function reason(each, changed, earlier) {
  const said = [];
  if (each.reused_from)
    said.push(html`<p>reused from <${Link} to=${`/builds/${each.reused_from}`}>${each.reused_from}<//>, key <code>${each.key.slice(0, 12)}</code></p>`);
  else if (earlier && changed.length)
    said.push(html`<p>${printable(changed.slice(0, 4).join("; "))}${changed.length > 4 ? `; ${changed.length - 4} more` : ""}
      <span class="hint"> since <${Link} to=${`/builds/${earlier.id}`}>${earlier.id}<//></span></p>`);
  if (each.attempts > 1) said.push(html`<p>${each.attempts} attempts</p>`);
  if (each.error) said.push(html`<p class="bad">${printable(each.error.brief)}</p>`);
  for (const warning of each.warnings) said.push(html`<p class="warn">${printable(warning)}</p>`);
  return said;
}
