// The artifacts of a build, with digests and downloads.
import { html, useState } from "./html.js";
import { printable, size } from "./format.js";
import { Command, Note, Trouble } from "./parts.js";
import { askJson } from "./session.js";

export function Artifacts({ view }) {
  const [problem, setProblem] = useState(null);
  if (view.removed_at)
    return html`<section><h2>Artifacts</h2><${Note}>They were removed.<//></section>`;
  if (!view.artifacts.length) return null;
  const download = async (artifact) => {
    setProblem(null);
    try {
      const { url } = await askJson("/web/downloads", {
        method: "POST",
        body: { build: view.id, artifact: artifact.name },
      });
      const link = document.createElement("a");
      link.href = url;
      link.download = artifact.name;
      link.click();
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<section><h2>Artifacts</h2>
    ${problem ? html`<${Trouble} problem=${problem} heading="h3" />` : null}
    <div class="scrolls" tabindex="0" role="region" aria-label="Artifacts"><table>
      <thead><tr><th scope="col">File</th><th scope="col" class="right">Size</th><th scope="col">SHA-256</th>
        <th scope="col"><span class="unseen">Download</span></th></tr></thead>
      <tbody>${view.artifacts.map(
        (artifact) => html`<tr key=${artifact.name}>
          <th scope="row">${printable(artifact.name)}${artifact.evidence ? html` <span class="tag">evidence</span>` : null}</th>
          <td class="right">${size(artifact.size_bytes)}</td>
          <td><code class="digest" title=${artifact.sha256}>${artifact.sha256.slice(0, 16)}\u2026</code></td>
          <td><button type="button" onClick=${() => download(artifact)}
            aria-label=${`Download ${printable(artifact.name)}`}>Download</button></td></tr>`,
      )}</tbody></table></div>
    <p><${Command}>${`dcctl download ${view.id}`}<//></p>
  </section>`;
}
