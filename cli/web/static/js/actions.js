// What a user can do with a build, each with the command that does the same in a terminal.
import { html, useState } from "./html.js";
import { me } from "./live.js";
import { Command, Confirm, Note, Trouble } from "./parts.js";
import { ask, buildPath } from "./session.js";

const ACTIONS = [
  { name: "Pause", command: "pause", states: ["queued", "running"] },
  { name: "Withdraw the pause", command: "resume", states: ["pausing"] },
  { name: "Resume", command: "resume", states: ["paused"] },
  { name: "Retry", command: "retry", states: ["failed"] },
  { name: "Cancel", command: "cancel", states: ["queued", "running", "pausing", "paused", "failed"], asks: true },
  { name: "Remove", command: "rm", states: ["completed", "cancelled"], asks: true, method: "DELETE" },
];

const QUESTIONS = {
  cancel: "Cancel this build? It cannot be resumed.",
  rm: "Remove the artifacts and logs of this build?",
};

export function Actions({ view }) {
  const [asked, setAsked] = useState(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const possible = ACTIONS.filter(({ states }) => states.includes(view.state) && !view.removed_at);
  if (!possible.length) return null;
  if (!mayControl(view))
    return html`<${Note}>To pause, resume, move, cancel or remove this build, you need the role operate.<//>`;
  const carryOut = async ({ command, method }) => {
    setAsked(null);
    setBusy(true);
    setProblem(null);
    try {
      await (method === "DELETE"
        ? ask(buildPath(view.id), { method })
        : ask(buildPath(view.id, command), { method: "POST", body: {} }));
    } catch (error) {
      setProblem(error);
    }
    setBusy(false);
  };
  return html`<ul class="actions" aria-label="Actions">${possible.map(
      (action) => html`<li key=${action.name}>
        <button type="button" disabled=${busy} class=${action.asks ? "danger" : ""}
          onClick=${() => (action.asks ? setAsked(action) : carryOut(action))}>${action.name}</button>
        <${Command}>${`dcctl ${action.command} ${view.id}`}<//></li>`,
    )}</ul>
    ${problem ? html`<${Trouble} problem=${problem} heading="h3" />` : null}
    ${asked ? html`<${Confirm} question=${QUESTIONS[asked.command]} command=${`dcctl ${asked.command} ${view.id}`}
      onYes=${() => carryOut(asked)} onNo=${() => setAsked(null)} />` : null}`;
}

function mayControl(view) {
  if (!me.value) return true; // the daemon decides anyway
  const { roles, uid } = me.value;
  return roles.includes("operate") || (roles.includes("submit") && uid === view.actor.uid);
}
