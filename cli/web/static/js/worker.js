// One stream for all tabs of a browser, which opens only six connections to a server: a shared worker reads
// it and passes the messages on. Tabs with different tokens share nothing.
import { follow } from "./stream.js";

const KEPT = 2000;
const stations = new Map();

class Station {
  constructor(token, after) {
    this.ports = new Set();
    this.floor = after; // all events after this position are kept
    this.kept = [];
    this.progress = new Map();
    this.state = null;
    this.aborting = new AbortController();
    follow(token, after, (message) => this.tell(message), this.aborting.signal);
  }

  tell(message) {
    if (message.kind === "event" || message.kind === "build") {
      if (message.kind === "event") this.progress.delete(message.data.build); // of a checkpoint that is past
      this.kept.push(message);
      while (this.kept.length > KEPT) this.floor = Math.max(this.floor, this.kept.shift().position);
    } else if (message.kind === "progress") this.progress.set(message.data.build, message);
    else if (message.kind === "reset") Object.assign(this, { kept: [], floor: message.position });
    else this.state = message;
    for (const port of this.ports) port.postMessage(message);
  }

  join(port, after) {
    this.ports.add(port);
    if (after < this.floor) {
      port.postMessage({ kind: "reset" }); // the tab reads its lists again, and joins with them
      return;
    }
    if (this.state) port.postMessage(this.state);
    const known = this.kept.findLastIndex(({ position }) => position > 0 && position <= after);
    for (const message of this.kept.slice(known + 1)) port.postMessage(message);
    for (const message of this.progress.values()) port.postMessage(message);
  }
}

self.onconnect = ({ ports: [port] }) => {
  let mine = null;
  port.onmessage = ({ data: { token, after, leave } }) => {
    const station = stations.get(mine);
    if (leave && station) {
      station.ports.delete(port);
      if (!station.ports.size) {
        station.aborting.abort();
        stations.delete(mine);
      }
      return;
    }
    mine = token;
    if (!stations.has(token)) stations.set(token, new Station(token, after));
    stations.get(token).join(port, after);
  };
};
