// The screens and serial consoles of guests that are booted: live from the attempt, later from the artifacts.
import { html, useEffect, useRef, useState } from "./html.js";
import { printable } from "./format.js";
import { useAnswer } from "./parts.js";
import { ask, askJson, buildPath } from "./session.js";

const EACH_MS = 1500;
const MOST_CONSOLE = 200_000; // characters

export function Screens({ view }) {
  if (view.removed_at) return null;
  const published = view.artifacts
    .filter(({ evidence, format }) => evidence && (format === "png" || format === "text"))
    .map(({ name, sha256, format }) => ({
      name,
      path: buildPath(view.id, "artifacts", name),
      version: sha256,
      picture: format === "png",
    }));
  // Until there are artifacts, what the attempts have left or are writing.
  const attempts = view.checkpoints.filter(
    (each) => each.attempts && (["running", "failed"].includes(each.state) || !view.artifacts.length),
  );
  return html`${attempts.map(
      (each) => html`<${Attempt} key=${`${each.name} ${each.attempts}`} build=${view.id} name=${each.name}
        attempt=${each.attempts} moving=${each.state === "running"} />`,
    )}
    <${Gallery} title="Screens and consoles" shown=${published} />`;
}

function Attempt({ build, name, attempt, moving }) {
  const [round, setRound] = useState(0);
  const path = buildPath(build, "logs", name, String(attempt), "files");
  const { value } = useAnswer(() => askJson(path), [path, round, moving]);
  useEffect(() => {
    if (!moving) return undefined;
    const timer = setTimeout(() => setRound(round + 1), EACH_MS);
    return () => clearTimeout(timer);
  }, [moving, value]);
  const shown = (value ? value.files : [])
    .filter(({ media_type: type }) => type.startsWith("image/") || type.startsWith("text/"))
    .map((file) => ({
      name: file.name,
      path: `${path}/${encodeURIComponent(file.name)}`,
      version: `${file.changed_at} ${file.size_bytes}`,
      picture: file.media_type.startsWith("image/"),
    }));
  return html`<${Gallery} title=${`${printable(name)}: screens and consoles`} shown=${shown} />`;
}

const Gallery = ({ title, shown }) =>
  shown.length
    ? html`<section><h2>${title}</h2><div class="screens">${shown.map((each) =>
        each.picture ? html`<${Picture} key=${each.path} ...${each} />` : html`<${Console} key=${each.path} ...${each} />`,
      )}</div></section>`
    : null;

function Picture({ name, path, version }) {
  const [url, setUrl] = useState("");
  useEffect(() => {
    const aborting = new AbortController();
    let made = "";
    (async () => {
      const content = await (await ask(path, { signal: aborting.signal })).arrayBuffer();
      made = URL.createObjectURL(new Blob([content], { type: "image/png" }));
      // A picture that is only half written keeps the one before.
      const image = new Image();
      image.src = made;
      await image.decode();
      setUrl(made);
    })().catch(() => {});
    return () => {
      aborting.abort();
      // The next picture takes its place first.
      if (made) setTimeout(() => URL.revokeObjectURL(made), 5000);
    };
  }, [path, version]);
  return html`<figure><figcaption>${printable(name)}</figcaption>
    ${url ? html`<img src=${url} alt=${`Screen: ${printable(name)}`} />` : null}</figure>`;
}

function Console({ name, path, version }) {
  const [text, setText] = useState("");
  const known = useRef({ bytes: 0, text: "", decoder: new TextDecoder() });
  const frame = useRef();
  useEffect(() => {
    const aborting = new AbortController();
    (async () => {
      const separator = path.includes("/artifacts/") ? "" : `?offset=${known.current.bytes}`;
      const content = await (await ask(path + separator, { signal: aborting.signal })).arrayBuffer();
      if (aborting.signal.aborted) return;
      const more = known.current.decoder.decode(content, { stream: true });
      known.current.bytes += content.byteLength;
      known.current.text = (known.current.text + more).slice(-MOST_CONSOLE);
      setText(known.current.text);
    })().catch(() => {});
    return () => aborting.abort();
  }, [path, version]);
  useEffect(() => {
    frame.current.scrollTop = frame.current.scrollHeight;
  }, [text]);
  return html`<figure><figcaption>${printable(name)}</figcaption>
    <pre class="console" tabindex="0" ref=${frame} role="region" aria-label=${`Console: ${printable(name)}`}>${screenText(text)}</pre></figure>`;
}

const screenText = (text) =>
  text.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, "").replace(/\r+\n/g, "\n").split("\n").map(printable).join("\n");
