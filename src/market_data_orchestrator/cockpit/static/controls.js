// Pause, resume and reload: always in the same place, saying who may and why not, and what came of it.

import { problemOf } from "./account.js";
import { el, setAttr, setText } from "./dom.js";
import { label } from "./state.js";

const ACTIONS = [
  {
    name: "pause",
    title: "Pause",
    role: "operator",
    effect: "Sources stop and what was received is stored. What the market sends until you resume is a gap, and recorded as one.",
    idle: (status) => (status.paused === true ? "it is paused already" : ""),
  },
  {
    name: "resume",
    title: "Resume",
    role: "operator",
    effect: "Sources start again. The gap of the pause is closed where the first new event stands.",
    idle: (status) => (status.paused === true ? "" : "it is not paused"),
  },
  {
    name: "reload",
    title: "Reload",
    role: "admin",
    effect: "The configuration is read again and applied whole or not at all. No event is lost; what needs a restart is said.",
    idle: () => "",
  },
];

/** The buttons, and the dialogs behind them. */
export class Controls {
  #account;
  #buttons = new Map();
  #why = new Map();
  #who = el("button", { type: "button", id: "account" }, "Sign in");
  #outcome = el("span", { id: "outcome", role: "status" });
  #busy = "";
  #status = null;
  #live = false;

  constructor({ account, root }) {
    this.#account = account;
    for (const action of ACTIONS) {
      const why = el("span", { class: "unseen", id: `why-${action.name}` });
      const button = el("button", { type: "button", id: `control-${action.name}`, "aria-describedby": why.id }, action.title);
      button.addEventListener("click", () => this.#ask(action));
      this.#buttons.set(action.name, button);
      this.#why.set(action.name, why);
      root.append(button, why);
    }
    this.#who.addEventListener("click", () => (this.#account.user === null ? this.#signIn() : this.#signOut()));
    root.append(this.#outcome, this.#who);
    this.#wireSignIn();
  }

  /** Shows what may be done now. */
  update({ status, live }) {
    this.#status = status;
    this.#live = live;
    for (const action of ACTIONS) {
      const why = this.#whyNot(action);
      const button = this.#buttons.get(action.name);
      setAttr(button, "aria-disabled", why ? "true" : null);
      setAttr(button, "title", why ? `${action.title}: ${why}` : null);
      setText(this.#why.get(action.name), why);
      setText(button, this.#busy === action.name ? `${action.title} …` : action.title);
    }
    const { user, role } = this.#account;
    setText(this.#who, user === null ? "Sign in" : `${user} · ${role}`);
    setAttr(this.#who, "title", user === null ? null : "Sign out");
  }

  #whyNot(action) {
    if (!this.#live || this.#status === null) return "not connected";
    if (this.#busy) return `${this.#busy} is under way`;
    if (this.#account.user === null) return "sign in first";
    if (!this.#account.may(action.role)) return `needs the role ${action.role}; you are ${this.#account.role}`;
    return action.idle(this.#status);
  }

  async #ask(action) {
    const why = this.#whyNot(action);
    if (why) {
      this.#say("warn", `${action.title}: ${why}`);
      return;
    }
    if (await confirmed(`${action.title}?`, action.effect, action.title)) await this.#run(action);
  }

  async #run(action) {
    this.#busy = action.name;
    this.update({ status: this.#status, live: this.#live });
    this.#say("off", `${action.title} …`);
    try {
      const headers = { "idempotency-key": randomKey() };
      const answer = await this.#account.request(`/control/${action.name}`, { method: "POST", headers });
      if (answer.status === 401) await this.#account.refresh();
      if (answer.ok) {
        const result = await answer.json();
        this.#say(result.status === "ok" ? "ok" : "bad", String(result.detail ?? result.status));
      } else this.#say("bad", await problemOf(answer));
    } catch {
      this.#say("bad", "No answer; whether it was done, the state will tell");
    } finally {
      this.#busy = "";
      this.update({ status: this.#status, live: this.#live });
    }
  }

  #say(level, words) {
    setText(this.#outcome, label(level, words));
    setAttr(this.#outcome, "data-level", level);
  }

  async #signIn() {
    const dialog = document.getElementById("sign-in");
    setText(document.getElementById("sign-in-problem"), "");
    dialog.showModal();
    document.getElementById("sign-in-issuer").hidden = !(await this.#account.hasIssuer());
  }

  #wireSignIn() {
    const dialog = document.getElementById("sign-in");
    const field = document.getElementById("sign-in-key");
    document.getElementById("sign-in-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const key = field.value.trim();
      if (!key) return;
      let problem;
      try {
        problem = await this.#account.useKey(key);
      } catch {
        problem = "No answer from the service";
      }
      setText(document.getElementById("sign-in-problem"), problem);
      if (problem) return;
      field.value = "";
      dialog.close();
    });
    document.getElementById("sign-in-cancel").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => (field.value = ""));
  }

  async #signOut() {
    if (!(await confirmed("Sign out?", `You are signed in as ${this.#account.user}.`, "Sign out"))) return;
    try {
      await this.#account.leave();
    } catch {
      this.#say("bad", "No answer; you may still be signed in");
    }
  }
}

// In words, with Cancel under the finger: nothing happens by accident.
function confirmed(title, effect, verb) {
  const dialog = document.getElementById("confirm");
  setText(document.getElementById("confirm-title"), title);
  setText(document.getElementById("confirm-effect"), effect);
  setText(document.getElementById("confirm-do"), verb);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "do"), { once: true }));
}

// crypto.randomUUID is not there on pages from plain http addresses other than this machine's.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
