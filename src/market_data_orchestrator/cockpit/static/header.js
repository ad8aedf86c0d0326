// What is always on top: the connection and its age, who this is, how it is, the time; and the banner for a lost connection.

import { el, setAttr, setText } from "./dom.js";
import { DASH, clock, duration, text } from "./format.js";
import { label, levelOf, worse } from "./state.js";

const LEVEL = { connecting: "stale", live: "ok", silent: "stale", disconnected: "bad" };

export class Header {
  #facts = new Map();
  #root = document.getElementById("facts");
  #banner = document.getElementById("banner");
  #said = "";

  constructor() {
    for (const name of ["connection", "health", "provider", "node", "version", "up", "UTC"]) {
      const value = el("span", { class: "value", id: `fact-${name}` });
      this.#facts.set(name, value);
      const shown = name === "UTC" ? [value, el("span", { class: "name" }, "UTC")] : [el("span", { class: "name" }, name), value];
      this.#root.append(el("span", { class: "fact" }, ...shown));
    }
  }

  /** Returns the worst level shown, for the title of the page. */
  update({ transport, perfNow, nowS }) {
    const { status, state } = transport;
    const level = LEVEL[state];
    const age = transport.receivedAt === null ? "" : ` · ${duration((perfNow - transport.receivedAt) / 1000)}`;
    this.#set("connection", label(level, `${state}${age}`), level);
    this.#set("UTC", clock(nowS));
    this.#warn(transport, perfNow);
    if (status === null) return level;
    const health = levelOf(status.health.state);
    this.#set("health", label(health, status.health.state ? text(status.health.state) : "unknown"), health);
    const provider = levelOf(status.provider.state);
    const known = status.provider.state ? `${text(status.provider.name)} ${text(status.provider.state)}` : text(status.provider.name);
    this.#set("provider", status.provider.name || status.provider.state ? label(provider, known) : DASH, status.provider.state ? provider : null);
    const runs = status.paused === true ? "paused" : text(status.runtime.state);
    this.#set("node", [status.node, status.region, status.cluster].filter(Boolean).map(text).join(" · ") || DASH);
    this.#set("version", text(status.version));
    this.#set("up", `${duration(status.uptime_s)}${runs === DASH ? "" : `, ${runs}`}`, runs === "paused" ? "off" : null);
    return worse(level, health);
  }

  #set(name, value, level = null) {
    const node = this.#facts.get(name);
    setText(node, value);
    setAttr(node, "data-level", level);
  }

  #warn({ state, since, retryAt, receivedAt }, perfNow) {
    const lost = state === "disconnected" || state === "silent";
    this.#banner.hidden = !lost;
    setAttr(this.#banner, "data-level", lost ? LEVEL[state] : null);
    const kept = receivedAt === null ? "Nothing was received yet." : "The figures below are the last received.";
    const words = {
      disconnected: `${label("bad", "Connection lost.")} ${kept}`,
      silent: `${label("stale", "No status arrives.")} ${kept}`,
    }[state] ?? "";
    // The countdown stands beside the words that are read out, or it would be read out every second.
    if (words !== this.#said) {
      this.#said = words;
      this.#banner.replaceChildren(words ? el("span", {}, words) : "", el("span", { class: "facts", "aria-hidden": "true" }));
    }
    if (!lost) return;
    const wait = retryAt === null ? "trying again now" : `next attempt in ${Math.max(0, Math.ceil((retryAt - perfNow) / 1000))} s`;
    setText(this.#banner.lastElementChild, `for ${duration((perfNow - since) / 1000)}${state === "disconnected" ? `, ${wait}` : ""}`);
  }
}
