// The manifest of a build, and what differs from the last build of the same name.
import { html, useState } from "./html.js";
import { printable } from "./format.js";
import { Differences } from "./compare.js";
import { previous } from "./checkpoints.js";
import { Link, Trouble, useAnswer } from "./parts.js";
import { askJson, buildPath } from "./session.js";

export const manifestOf = (events) => events.reduce((text, { data }) => data.manifest || text, "");

export function Changes({ view, events }) {
  const [open, setOpen] = useState(false);
  const earlier = previous(view);
  const manifest = manifestOf(events);
  return html`<section><h2>Manifest</h2>
    ${manifest ? html`<details><summary>${printable(view.manifest_path || "manifest")}</summary>
      <pre class="source" tabindex="0">${manifest.split("\n").map(printable).join("\n")}</pre></details>` : null}
    ${earlier ? html`<details onToggle=${(event) => setOpen(event.currentTarget.open)}>
      <summary>What differs from the last build, ${earlier.id}</summary>
      ${open ? html`<${Difference} first=${earlier.id} second=${view.id} moment=${view.updated_at} />` : null}</details>
      <p><${Link} to=${`/compare/${earlier.id}/${view.id}`}>Compare the two builds<//></p>` : null}
  </section>`;
}

function Difference({ first, second, moment }) {
  const { value, problem } = useAnswer(() => askJson(buildPath(first, "diff", second)), [first, second, moment]);
  if (problem) return html`<${Trouble} problem=${problem} heading="h3" />`;
  return value ? html`<${Differences} found=${value} />` : html`<p class="hint">Loading\u2026</p>`;
}
