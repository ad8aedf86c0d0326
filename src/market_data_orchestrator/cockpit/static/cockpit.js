// The shell: views by number and address, the keyboard, and when to paint.

import { Account } from "./account.js";
import { Controls } from "./controls.js";
import { el, setAttr, setText } from "./dom.js";
import { epochSeconds } from "./format.js";
import { Header } from "./header.js";
import { History, sampleOf } from "./history.js";
import { Jobs } from "./jobs.js";
import { Market } from "./market.js";
import { Overview } from "./overview.js";
import { Raw } from "./raw.js";
import { GLYPH } from "./state.js";
import { Transport } from "./transport.js";

const LEAST_BETWEEN_PAINTS_MS = 200;
const KEYS = [["1 2 4 9", "views"], ["/", "filter symbols"], ["Esc", "clear the filter, close this"], ["?", "this list"], ["↑ ↓ Page Home End", "scroll a table that has the focus"]];

const main = document.getElementById("main");
const help = document.getElementById("help");
const header = new Header();
const account = new Account({ onChange: () => schedule() });
const controls = new Controls({ account, root: document.getElementById("controls") });
const history = new History();
const filtered = (q) => {
  window.history.replaceState(null, "", q ? `#/market?${new URLSearchParams({ q })}` : "#/market");
  schedule();
};
const views = [
  { key: "1", path: "overview", view: new Overview() },
  { key: "2", path: "market", view: new Market({ onFilter: filtered }) },
  { key: "4", path: "jobs", view: new Jobs() },
  { key: "9", path: "status", view: new Raw() },
];
const waiting = el("p", { class: "empty", id: "waiting" });
const transport = new Transport({
  url: `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/ws/status`,
  onMessage: () => history.add(sampleOf(transport.status, Date.now())),
  onChange: () => {
    // Who this is may have changed while the service was away.
    if (transport.state === "live" && !asked) account.refresh();
    asked = transport.state === "live";
    schedule();
  },
});

let asked = false;
let current = null;
let paintedAt = -Infinity;
let scheduled = false;

// A hidden page gets no animation frames: it paints once, the newest state, when it is seen again.
function schedule() {
  if (scheduled) return;
  scheduled = true;
  const wait = Math.max(0, paintedAt + LEAST_BETWEEN_PAINTS_MS - performance.now());
  setTimeout(() => requestAnimationFrame(paint), wait);
}

function paint() {
  scheduled = false;
  paintedAt = performance.now();
  const now = Date.now();
  const { status, raw, receivedAt, state } = transport;
  const drift = receivedAt === null ? 0 : (paintedAt - receivedAt) / 1000;
  // The service's own clock, run on: what it dates is as old as that clock says, however this machine's is set.
  const said = epochSeconds(status?.ts);
  const nowS = said === null || Math.abs(said) > 1e11 ? now / 1000 : said + drift;
  const worst = header.update({ transport, perfNow: paintedAt, nowS });
  document.title = `${GLYPH[worst]} ${current.view.title} · ${typeof status?.node === "string" ? status.node : location.host}`;
  controls.update({ status, live: state === "live" });
  setAttr(main, "data-connection", state);
  waiting.hidden = status !== null;
  current.view.root.hidden = status === null;
  if (status === null) {
    const lost = state === "disconnected";
    setText(waiting, lost ? `No answer from ${location.host}. Is the service running? The page goes on trying.` : `Waiting for the first status from ${location.host}.`);
    return;
  }
  current.view.update({ status, raw, receivedAt, drift, perfNow: paintedAt, now, nowS, history: history.samples });
}

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const next = views.find((v) => v.path === path) ?? views[0];
  next.view.show?.(new URLSearchParams(query ?? ""));
  if (next !== current) {
    current = next;
    main.replaceChildren(waiting, next.view.root);
    for (const v of views) setAttr(v.link, "aria-current", v === next ? "page" : null);
  }
  if (help.open) help.close();
  schedule();
}

function go(path) {
  if (current.path !== path) location.hash = `#/${path}`;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target instanceof Element && event.target.matches("input, textarea, select");
  if (event.key === "Escape" && typing) {
    event.target.value = "";
    event.target.dispatchEvent(new Event("input", { bubbles: true }));
    event.target.blur();
    return;
  }
  if (typing || document.querySelector("dialog[open]")) return;
  const view = views.find((v) => v.key === event.key);
  if (view) go(view.path);
  else if (event.key === "/") {
    event.preventDefault(); // or the stroke lands in the filter
    if (current.path !== "market") {
      window.history.pushState(null, "", "#/market");
      route();
    }
    views[1].view.focusFilter();
  } else if (event.key === "?") help.showModal();
  else if (event.key === "Escape" && current.path === "market") {
    filtered("");
    route();
  }
}

for (const v of views) {
  v.link = el("a", { href: `#/${v.path}` }, el("kbd", {}, v.key), ` ${v.view.title}`);
  document.getElementById("nav").append(v.link);
}
const helpButton = el("button", { type: "button", "aria-label": "Keys" }, "?");
helpButton.addEventListener("click", () => help.showModal());
document.getElementById("nav").append(helpButton);
for (const [keys, effect] of KEYS) document.getElementById("help-keys").append(el("dt", {}, keys), el("dd", {}, effect));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash belongs to the views
  main.focus();
});
addEventListener("hashchange", route);
addEventListener("keydown", onKey);
route();
setInterval(schedule, 1000);
transport.start();
