// What differs between two builds: packages, sizes, times, the manifest, files.
import { html } from "./html.js";
import { duration, plural, printable, size, time } from "./format.js";
import { builds } from "./live.js";
import { Command, Note, Trouble, useAnswer } from "./parts.js";
import { askJson, buildPath } from "./session.js";

const MOST_ROWS = 500;

export function Compare({ first, second }) {
  const all = [...builds.value.values()];
  const choose = (which) => (event) => {
    const id = event.currentTarget.value;
    location.hash = which === 0 ? `/compare/${id}/${second || ""}` : `/compare/${first || ""}/${id}`;
  };
  const menu = (chosen, which) => html`<select onChange=${choose(which)}>
    <option value="" selected=${!chosen}>Choose a build</option>
    ${chosen && !all.some(({ id }) => id === chosen) ? html`<option value=${chosen} selected>${chosen}</option>` : null}
    ${all.map((build) => html`<option value=${build.id} selected=${build.id === chosen}>
      ${printable(build.name)} ${build.id}, ${build.state}, ${time(build.submitted_at)}</option>`)}</select>`;
  return html`<h1>Compare two builds</h1>
    <div class="filters">
      <label class="field wide"><span>First</span>${menu(first, 0)}</label>
      <label class="field wide"><span>Second</span>${menu(second, 1)}</label>
    </div>
    ${first && second ? html`<${Compared} key=${`${first} ${second}`} first=${first} second=${second} />`
      : html`<${Note}>The differences in packages, sizes and times are shown here.<//>`}`;
}

function Compared({ first, second }) {
  const { value, problem } = useAnswer(() => askJson(buildPath(first, "diff", second)), [first, second]);
  if (problem) return html`<${Trouble} problem=${problem} />`;
  if (!value) return html`<${Note}>Comparing\u2026<//>`;
  return html`<p><${Command}>${`dcctl diff ${first} ${second}`}<//></p><${Differences} found=${value} heading="h2" />`;
}

export function Differences({ found, heading = "h3" }) {
  const { packages, manifest, parameters, inputs, files, products, checkpoints, unknown } = found;
  const table = (title, head, rows, right) => titled(heading, title, head, rows, right);
  const sections = [
    table("Packages", ["Package", "First", "Second"], packages.map(changed)),
    table("Sizes", ["Product", "First", "Second", "Difference"], products.map(product), [1, 2, 3]),
    table("Times", ["Checkpoint", "First", "Second", "Difference"], checkpoints.map(run), [1, 2, 3]),
    table("Parameters", ["Parameter", "First", "Second"], parameters.map(changed)),
    table("Captured files", ["File", "First", "Second"], inputs.map((each) => changed({ ...each, first: each.first.slice(0, 12), second: each.second.slice(0, 12) }))),
    manifest.length ? html`<section><${heading}>Manifest<//><pre class="source" tabindex="0">${manifest.map(diffLine)}</pre></section>` : null,
    files.length ? table(`Files after ${printable(found.compared)} (${found.different_files})`, ["File", "Difference"],
      files.map((file) => [printable(file.path), printable(fileWords(file))])) : null,
  ].filter(Boolean);
  return html`<div class="differences">${sections.length ? sections : html`<${Note}>Nothing differs.<//>`}
    ${unknown.length ? html`<section><${heading}>Not compared<//><ul>${unknown.map((each) => html`<li>${printable(each)}</li>`)}</ul></section>` : null}</div>`;
}

const changed = ({ name, first, second }) => [printable(name), printable(first) || "\u2013", printable(second) || "\u2013"];

const product = ({ name, first_bytes: first, second_bytes: second, identical }) => [
  printable(name), size(first) || "\u2013", size(second) || "\u2013",
  identical ? "identical" : first !== null && second !== null ? signed(second - first, size) : "",
];

const run = ({ name, first, second }) => [
  printable(name), ran(first), ran(second),
  first && second && first.seconds !== null && second.seconds !== null
    ? signed(second.seconds - first.seconds, duration) : "",
];

const ran = (each) => (each ? `${each.seconds === null ? "" : duration(each.seconds)} ${each.state}`.trim() : "\u2013");

const signed = (number, words) => (number === 0 ? "same" : `${number < 0 ? "\u2212" : "+"}${words(Math.abs(number))}`);

const fileWords = ({ kinds, first, second }) =>
  kinds.map((kind) => (kind in first && kind in second && kind !== "content"
    ? `${kind} ${first[kind]} \u2192 ${second[kind]}` : kind)).join(", ");

function diffLine(text) {
  const kind = text.startsWith("+") ? "added" : text.startsWith("-") ? "gone" : text.startsWith("@") ? "place" : "";
  return html`<span class=${`diff ${kind}`}>${printable(text)}${"\n"}</span>`;
}

function titled(heading, title, head, rows, right = []) {
  if (!rows.length) return null;
  const align = (index) => (right.includes(index) ? "right" : "");
  return html`<section><${heading}>${title}<//>
    <div class="scrolls" tabindex="0" role="region" aria-label=${title}><table>
      <thead><tr>${head.map((text, index) => html`<th scope="col" class=${align(index)}>${text}</th>`)}</tr></thead>
      <tbody>${rows.slice(0, MOST_ROWS).map((row) => html`<tr>${row.map((text, index) =>
        index ? html`<td class=${align(index)}>${text}</td>` : html`<th scope="row">${text}</th>`)}</tr>`)}</tbody></table></div>
    ${rows.length > MOST_ROWS ? html`<${Note}>${plural(rows.length - MOST_ROWS, "more row")}: dcctl diff shows all.<//>` : null}</section>`;
}
