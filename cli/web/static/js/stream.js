// The stream of all events, read by fetch, since an EventSource cannot send the token. It is opened again
// after the last event seen, so none is lost. Runs in the shared worker or in the page; touches neither.

const SHORTEST_WAIT = 200;
const LONGEST_WAIT = 3000;

// Calls `tell` with {kind, position, data} of each message, and with the kinds `gone` (dcctl web does not
// answer), `open` and `locked` (the token is refused), until `abort` is aborted.
export async function follow(token, after, tell, abort) {
  let position = after;
  let wait = SHORTEST_WAIT;
  while (!abort.aborted) {
    try {
      const answer = await fetch("/v1/events", {
        headers: {
          Authorization: `Bearer ${token}`,
          Accept: "text/event-stream",
          "Last-Event-ID": String(position),
        },
        credentials: "omit",
        signal: abort,
      });
      if (answer.status === 401) {
        tell({ kind: "locked" });
        return;
      }
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      tell({ kind: "open" });
      wait = SHORTEST_WAIT;
      for await (const message of messages(answer.body)) {
        position = message.kind === "reset" ? message.position : message.position || position;
        tell(message);
      }
    } catch (error) {
      if (abort.aborted) return;
    }
    tell({ kind: "gone" });
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 2, LONGEST_WAIT);
  }
}

async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const texts = (rest + value).split("\n\n");
    rest = texts.pop();
    for (const text of texts) {
      const fields = {};
      for (const line of text.split("\n")) {
        const colon = line.indexOf(": ");
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
      }
      if (fields.event)
        yield {
          kind: fields.event,
          position: Number(fields.id || 0),
          data: JSON.parse(fields.data || "{}"),
        };
    }
  }
}
