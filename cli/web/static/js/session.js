// The token of this page, and requests with it. The token comes in the fragment, which no server sees,
// and stays in this tab. There is no cookie: a request without the header Authorization gets nothing.
import { signal } from "./html.js";

const PLACE = "dcd-token";

// Why there is no access: "" while there may be.
export const locked = signal("");

export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(PLACE, given);
    history.replaceState(null, "", `${location.pathname}#/`);
  }
  if (!token()) locked.value = "This page was opened without its token.";
  return Boolean(given);
}

export const token = () => sessionStorage.getItem(PLACE) || "";

// A refused request, as the API describes it (RFC 9457).
export class Problem extends Error {
  constructor(status, { type = "", title = "", detail = "", resolution = "" } = {}) {
    super(title || `the answer was ${status}`);
    Object.assign(this, { status, kind: type.split(":").pop(), detail, resolution });
  }
}

// The response to a request; throws Problem. With status 0 dcctl web itself does not answer.
export async function ask(path, { method = "GET", body, headers = {}, signal: abort } = {}) {
  const content = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: { Authorization: `Bearer ${token()}`, ...content, ...headers },
      credentials: "omit",
      redirect: "error",
      signal: abort,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, {
      title: "dcctl web does not answer",
      resolution: "start it again in its terminal, and open the address that it prints",
    });
  }
  if (!answer.ok) {
    const problem = new Problem(answer.status, await answer.json().catch(() => ({})));
    if (answer.status === 401) locked.value = problem.message;
    throw problem;
  }
  return answer;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

export const buildPath = (...parts) => ["/v1/builds", ...parts.map(encodeURIComponent)].join("/");
