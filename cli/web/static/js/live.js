// What the page knows of all builds, kept current by the stream.
import { signal } from "./html.js";
import { askJson, locked, token } from "./session.js";
import { follow } from "./stream.js";

const PAGE = 100;

export const builds = signal(new Map()); // summaries by id
export const progress = signal(new Map()); // of running builds, by id
export const more = signal(null); // where the next page of older builds begins
export const me = signal(null);
export const failure = signal(null); // why there is no list
// connecting, live, away (no daemon), gone (no dcctl web); with the problem of `away`
export const connection = signal({ state: "connecting" });

const listeners = new Set();
let join = null;

// Calls `on` with each event of the log, and with null when everything has to be read again.
export function subscribe(on) {
  listeners.add(on);
  return () => listeners.delete(on);
}

export async function start() {
  if (!(await load())) return;
  me.value = await askJson("/v1/whoami").catch(() => null);
  addEventListener("pageshow", (event) => event.persisted && load());
}

async function load() {
  let page;
  try {
    page = await askJson(`/v1/builds?limit=${PAGE}`);
  } catch (problem) {
    failure.value = problem;
    if (!locked.value && problem.status !== 403) setTimeout(load, 2000);
    return false;
  }
  failure.value = null;
  builds.value = new Map(page.builds.map(seen));
  more.value = page.next;
  connect(page.position);
  return true;
}

export async function loadOlder() {
  const page = await askJson(`/v1/builds?limit=${PAGE}&before=${more.value}`);
  builds.value = new Map([...builds.value, ...page.builds.map(seen)]);
  more.value = page.next;
}

function connect(after) {
  if (join === null) join = globalThis.SharedWorker ? joinWorker() : joinAlone();
  join(after);
}

function joinWorker() {
  const worker = new SharedWorker("/static/js/worker.js", { type: "module", name: "dcd" });
  worker.port.onmessage = ({ data }) => tell(data);
  addEventListener("pagehide", () => worker.port.postMessage({ leave: true }));
  return (after) => worker.port.postMessage({ token: token(), after });
}

function joinAlone() {
  let aborting = new AbortController();
  return (after) => {
    aborting.abort();
    aborting = new AbortController();
    follow(token(), after, tell, aborting.signal);
  };
}

function tell({ kind, data }) {
  switch (kind) {
    case "open":
    case "back":
      if (connection.value.state === "away" || connection.value.state === "gone") restore();
      connection.value = { state: "live" };
      break;
    case "away":
      progress.value = new Map();
      connection.value = { state: "away", problem: data };
      break;
    case "gone":
      connection.value = { state: "gone" };
      break;
    case "locked":
      locked.value = "The token is that of another dcctl web, or of one that has ended.";
      break;
    case "reset":
      load();
      for (const on of listeners) on(null);
      break;
    case "build":
      // The newest build is first.
      builds.value = new Map(
        builds.value.has(data.id)
          ? [...builds.value].map(([id, build]) => (id === data.id ? seen(data) : [id, build]))
          : [seen(data), ...builds.value],
      );
      break;
    case "progress":
      progress.value = new Map(progress.value).set(data.build, data);
      break;
    case "event":
      if (!/^(CheckpointStarted|ResourceClaimed)$/.test(data.type)) forget(data.build);
      for (const on of listeners) on(data);
  }
}

function forget(build) {
  if (!progress.value.has(build)) return;
  const kept = new Map(progress.value);
  kept.delete(build);
  progress.value = kept;
}

// A build by its id, with the time at which the page was told how far it is.
const seen = (build) => [build.id, { ...build, seen_at: Date.now() / 1000 }];

async function restore() {
  me.value = await askJson("/v1/whoami").catch(() => me.value);
}
