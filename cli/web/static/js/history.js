// From the events of a build to what the timeline shows. Pure.
import { seconds } from "./format.js";

const DEATHS = { "daemon-died": "the daemon died", "machine-rebooted": "the machine rebooted", "host-lost": "the host was lost" };

// Attempts, reuses, pauses and marks, with times in seconds since 1970. `now` ends what still runs.
export function history(events, now) {
  const found = { rows: [], attempts: [], pauses: [], marks: [], begin: now, end: 0 };
  let open = null;
  let pause = null;
  const finish = (at, state, words = "") => {
    if (open) found.attempts.push({ ...open, end: at, state, words });
    open = null;
  };
  for (const { type, time, data } of events) {
    const at = seconds(time);
    found.begin = Math.min(found.begin, at);
    found.end = Math.max(found.end, at);
    switch (type) {
      case "BuildSubmitted":
        found.rows = data.plan.checkpoints.map((planned) => planned.name);
        break;
      case "BuildResumed":
        if (data.plan) found.rows = [...new Set([...found.rows, ...data.plan.checkpoints.map(({ name }) => name)])];
        found.marks.push({ at, kind: "resumed", words: data.plan ? "resumed with another manifest" : "resumed" });
        if (pause) found.pauses.push({ ...pause, end: at });
        pause = null;
        break;
      case "CheckpointStarted":
        open = { checkpoint: data.checkpoint, attempt: data.attempt, begin: at };
        break;
      case "CheckpointReused":
        found.attempts.push({
          checkpoint: data.checkpoint, attempt: 0, begin: at, end: at, state: "reused",
          words: `reused from ${data.reused_from}`,
        });
        break;
      case "CheckpointCompleted":
        finish(at, "completed");
        break;
      case "CheckpointFailed":
        finish(at, "failed", data.error.brief);
        break;
      case "CheckpointInterrupted":
        finish(at, "interrupted", data.cause);
        if (DEATHS[data.cause]) found.marks.push({ at, kind: "death", words: DEATHS[data.cause] });
        break;
      case "BuildRewound":
        found.marks.push({ at, kind: "rewound", words: `rewound to ${data.checkpoint}${data.reason ? `: ${data.reason}` : ""}` });
        break;
      case "LayerDamaged":
        found.marks.push({ at, kind: "rewound", words: `the layer of ${data.checkpoint} is damaged` });
        break;
      case "BuildPaused":
        pause = { begin: at, words: data.reason || "paused" };
        break;
      case "BuildFailed":
        pause = { begin: at, words: "failed, waiting for a decision" };
        break;
      case "BuildCancelled":
        found.marks.push({ at, kind: "cancelled", words: "cancelled" });
        break;
      case "BuildCompleted":
        found.marks.push({ at, kind: "completed", words: "completed" });
    }
  }
  if (open) {
    found.end = Math.max(found.end, now);
    finish(found.end, "running");
  }
  if (pause) found.pauses.push({ ...pause, end: Math.max(found.end, pause.begin + 1) });
  return found;
}

// A function from times to 0..1 that is short where nothing runs for long, and the places of these gaps.
export function scale({ attempts, begin, end }) {
  const busy = [];
  for (const each of [...attempts].sort((a, b) => a.begin - b.begin)) {
    const last = busy[busy.length - 1];
    if (last && each.begin <= last.end) last.end = Math.max(last.end, each.end);
    else busy.push({ begin: each.begin, end: each.end });
  }
  const worked = busy.reduce((sum, part) => sum + part.end - part.begin, 0);
  const longest = Math.max(worked * 0.15, 5);
  const parts = [];
  let at = begin;
  for (const part of [...busy, { begin: end, end }]) {
    if (part.begin > at) parts.push({ begin: at, end: part.begin, idle: true });
    if (part.end > part.begin) parts.push(part);
    at = Math.max(at, part.end);
  }
  const gaps = [];
  let place = 0;
  for (const part of parts) {
    const long = part.idle && part.end - part.begin > longest;
    const width = long ? longest : part.end - part.begin;
    Object.assign(part, { place, width });
    if (long) gaps.push(part);
    place += width;
  }
  const total = place || 1;
  const to = (time) => {
    const part = parts.findLast((each) => time >= each.begin) || parts[0];
    if (!part) return 0;
    const share = Math.min(1, Math.max(0, (time - part.begin) / (part.end - part.begin || 1)));
    return (part.place + share * part.width) / total;
  };
  return { to, gaps };
}

// The reasons why checkpoints of a plan differ from those of an earlier one: what decides their results.
export function reasons(plan, earlier) {
  const before = new Map((earlier ? earlier.checkpoints : []).map((planned) => [planned.name, planned]));
  return new Map(
    plan.checkpoints.map((planned) => {
      const old = before.get(planned.name);
      if (!earlier) return [planned.name, []];
      if (!old) return [planned.name, ["it is new"]];
      if (old.key === planned.key) return [planned.name, []];
      const changed = changes(old.ingredients, planned.ingredients);
      return [planned.name, changed.length ? changed : ["an earlier checkpoint changed"]];
    }),
  );
}

function changes(old, next) {
  const name = (part) => `${part.kind} ${part.name}`;
  const digests = new Map(old.map((part) => [name(part), part.digest]));
  const found = [];
  for (const part of next) {
    if (part.kind === "salt") found.push("earlier results were declined");
    else if (!digests.has(name(part))) found.push(`${name(part)} is new${line(part)}`);
    else if (digests.get(name(part)) !== part.digest) found.push(`${name(part)} changed${line(part)}`);
    digests.delete(name(part));
  }
  for (const gone of digests.keys()) if (!gone.startsWith("salt")) found.push(`${gone} is gone`);
  return found;
}

const line = (part) => (part.line ? `, line ${part.line}` : "");
