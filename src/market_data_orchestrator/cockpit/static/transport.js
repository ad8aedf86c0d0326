// One WebSocket, opened again for as long as the page lives. Only the newest message is kept: drop, never queue.

import { parse, statusOf } from "./model.js";

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;
// The service speaks every two seconds by default; a wire that says nothing for this long is dead or near it.
const SILENT_AFTER_MS = 10_000;
const LONGEST_INTERVAL_MS = 60_000;
const SILENT_AFTER_INTERVALS = 3; // where the service is set to speak less often than that

/** Follows the status of the service. `onMessage` and `onChange` are called without arguments; read the fields. */
export class Transport {
  status = null; // newest status, see model.js
  raw = ""; // the message it came in
  receivedAt = null; // performance.now() of it
  state = "connecting"; // connecting | live | silent | disconnected
  since = performance.now(); // of the state
  retryAt = null; // performance.now() of the next attempt

  #socket = null;
  #spokeAt = 0;
  #longestInterval = 0;
  #spoken = false;
  #failures = 0;
  #timer = null;

  constructor({ url, onMessage, onChange }) {
    this.url = url;
    this.onMessage = onMessage;
    this.onChange = onChange;
  }

  start() {
    setInterval(() => this.#watch(), 1000);
    addEventListener("online", () => this.#retryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.#retryNow());
    this.#open();
  }

  #open() {
    this.retryAt = null;
    const socket = new WebSocket(this.url);
    this.#socket = socket;
    this.#spoken = false;
    this.#spokeAt = performance.now();
    socket.onmessage = (event) => socket === this.#socket && this.#receive(event.data);
    socket.onclose = () => socket === this.#socket && this.#lost();
  }

  #receive(raw) {
    let status = null;
    try {
      status = statusOf(parse(raw));
    } catch (error) {
      console.error("A message of the service is not JSON", error);
    }
    if (status === null) return;
    this.#failures = 0;
    const now = performance.now();
    // Within one connection only: the time away is no interval of the service.
    if (this.#spoken) this.#longestInterval = Math.min(LONGEST_INTERVAL_MS, Math.max(this.#longestInterval, now - this.#spokeAt));
    this.#spoken = true;
    this.#spokeAt = now;
    Object.assign(this, { status, raw, receivedAt: this.#spokeAt });
    this.#enter("live");
    this.onMessage();
  }

  #lost() {
    this.#socket = null;
    const wait = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#failures);
    const jittered = wait * (0.75 + Math.random() / 4); // or all pages come back in the same instant
    this.#failures += 1;
    this.retryAt = performance.now() + jittered;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), jittered);
    this.#enter("disconnected");
  }

  // A half-open connection never closes by itself: the machine at the other end may be gone.
  #watch() {
    if (this.#socket === null) return;
    const quiet = performance.now() - this.#spokeAt;
    const patience = Math.max(SILENT_AFTER_MS, SILENT_AFTER_INTERVALS * this.#longestInterval);
    if (quiet > 2 * patience) {
      const dead = this.#socket;
      this.#lost();
      dead.close();
    } else if (quiet > patience && this.state === "live") this.#enter("silent");
  }

  #retryNow() {
    if (this.#socket !== null) return;
    clearTimeout(this.#timer);
    this.#open();
  }

  #enter(state) {
    if (state !== this.state) {
      this.state = state;
      this.since = performance.now();
    }
    this.onChange();
  }
}
