// The screens and serial consoles of guests that were booted.
import { html, useEffect, useState } from "./html.js";
import { printable } from "./format.js";
import { ask, buildPath } from "./session.js";

const MOST_CONSOLE = 200_000; // characters

export function Screens({ view }) {
  const shown = view.removed_at ? [] : view.artifacts.filter(({ evidence, format }) => evidence && (format === "png" || format === "text"));
  if (!shown.length) return null;
  return html`<section><h2>Screens and consoles</h2><div class="screens">
    ${shown.map((each) => html`<${Evidence} key=${each.sha256} build=${view.id} artifact=${each} />`)}</div></section>`;
}

function Evidence({ build, artifact }) {
  const [found, setFound] = useState(null);
  useEffect(() => {
    const aborting = new AbortController();
    let url = null;
    (async () => {
      const answer = await ask(buildPath(build, "artifacts", artifact.name), { signal: aborting.signal });
      if (artifact.format !== "png") return setFound({ text: await answer.text() });
      url = URL.createObjectURL(new Blob([await answer.arrayBuffer()], { type: "image/png" }));
      return setFound({ url });
    })().catch(() => {});
    return () => {
      aborting.abort();
      if (url) URL.revokeObjectURL(url);
    };
  }, [build, artifact.name, artifact.sha256]);
  const name = printable(artifact.name);
  return html`<figure><figcaption>${name}</figcaption>
    ${found && found.url ? html`<img src=${found.url} alt=${`Screen: ${name}`} />` : null}
    ${found && found.text !== undefined ? html`<pre class="console" tabindex="0">${found.text.slice(-MOST_CONSOLE).split("\n").map(printable).join("\n")}</pre>` : null}
  </figure>`;
}
