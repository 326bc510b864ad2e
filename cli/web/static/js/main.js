// The frame of the page, and which page is in it: the fragment names it, since no server sees that.
import { html, render, signal, useEffect } from "./html.js";
import { Build } from "./build.js";
import { Builds } from "./builds.js";
import { Compare } from "./compare.js";
import { watchFarm } from "./farm.js";
import { printable } from "./format.js";
import { Host } from "./host.js";
import { connection, me, start } from "./live.js";
import { Link } from "./parts.js";
import { locked, takeToken } from "./session.js";

const route = signal([]);

function follow() {
  if (takeToken()) {
    location.reload(); // with the new token from the start
    return;
  }
  const before = route.value.slice(0, 3).join("/");
  route.value = location.hash.replace(/^#?\/?/, "").split("/").map(decoded);
  if (before !== route.value.slice(0, 3).join("/")) {
    scrollTo(0, 0);
    document.querySelector("main")?.focus({ preventScroll: true });
  }
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function Page() {
  const [page, ...rest] = route.value;
  useEffect(() => {
    document.title = ["dcd", page === "builds" ? printable(rest[0]) : page].filter(Boolean).reverse().join(" \u00b7 ");
  }, [page, rest[0]]);
  if (page === "builds" && rest[0]) {
    const [id, , checkpoint, attempt, line] = rest;
    return html`<${Build} key=${id} id=${id} checkpoint=${checkpoint} attempt=${Number(attempt)} line=${Number(line) || 0} />`;
  }
  if (page === "host") return html`<${Host} />`;
  if (page === "compare") return html`<${Compare} first=${rest[0]} second=${rest[1]} />`;
  return html`<${Builds} />`;
}

function Frame() {
  if (locked.value) return html`<main class="alone"><${Locked} /></main>`;
  const [page] = route.value;
  const entry = (to, name, here) => html`<${Link} to=${to} aria-current=${here ? "page" : undefined}>${name}<//>`;
  return html`<a class="skip" href="#main" onClick=${skip}>Skip to content</a>
    <header class="top"><div class="bar-inner">
      <span class="brand" aria-hidden="true"><i></i><i></i><i></i></span><strong>dcd</strong>
      <nav aria-label="Pages">${entry("/", "Builds", !page || page === "builds")}
        ${entry("/compare", "Compare", page === "compare")}${entry("/host", "Host", page === "host")}</nav>
      <span class="who">${me.value ? printable(me.value.user) : ""}</span>
      <span class=${`link link-${connection.value.state}`}><span class="dot" aria-hidden="true"></span>${connection.value.state === "live" ? "live" : "\u2026"}</span>
    </div></header>
    <div role="status"><${Lost} /></div>
    <main id="main" tabindex="-1"><${Page} /></main>`;
}

function skip(event) {
  event.preventDefault();
  document.querySelector("main").focus();
}

function Lost() {
  const { state, problem } = connection.value;
  if (state === "away")
    return html`<p class="lost"><strong>The daemon does not answer.</strong> The page waits for it and misses nothing.
      ${problem && problem.title ? html` <span>(${printable(problem.title)})</span>` : null}</p>`;
  if (state === "gone")
    return html`<p class="lost"><strong>dcctl web does not answer.</strong> If it has ended, start it again, and open the address that it prints.</p>`;
  return null;
}

const Locked = () => html`<h1>No access</h1>
  <p>${locked.value}</p>
  <p>In a terminal, <code>dcctl web</code> prints an address that contains the token, and <code>dcctl web --open</code> opens it.
    Open it in this tab. It works as long as that command runs: give it to nobody.</p>`;

takeToken();
follow();
addEventListener("hashchange", follow);
render(html`<${Frame} />`, document.getElementById("app"));
if (!locked.value) {
  start();
  watchFarm();
}
