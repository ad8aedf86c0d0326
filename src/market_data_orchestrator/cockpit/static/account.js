// Who is signed in, and what they may do. A session lives in a cookie that no script can read; a key, for development,
// lives in this tab alone.

const KEY = "cockpit.key";
const ROLES = ["viewer", "operator", "admin"];

/** A request as whoever is signed in. Throws only where nothing answers. */
export class Account {
  user = null;
  role = null;
  known = false; // false until the service has said who this is
  #csrf = null;

  constructor({ onChange }) {
    this.onChange = onChange;
  }

  /** True if the role is at least `role`. */
  may(role) {
    return this.role !== null && ROLES.indexOf(this.role) >= ROLES.indexOf(role);
  }

  get withKey() {
    return sessionStorage.getItem(KEY) !== null;
  }

  /** Asks the service who this is. */
  async refresh() {
    let who = null;
    try {
      const answer = await this.request("/auth/me");
      if (answer.ok) who = await answer.json();
    } catch {
      return; // nothing answers: the banner says so, and who is signed in is asked again when it does
    }
    this.known = true;
    this.user = typeof who?.user === "string" ? who.user : null;
    this.role = ROLES.includes(who?.role) ? who.role : null;
    this.#csrf = typeof who?.csrf_token === "string" ? who.csrf_token : null;
    this.onChange();
  }

  /** Signs in with a key; returns why not, or "" when it held. */
  async useKey(key) {
    sessionStorage.setItem(KEY, key);
    const answer = await this.request("/auth/ping");
    if (!answer.ok) {
      sessionStorage.removeItem(KEY);
      return problemOf(answer);
    }
    await this.refresh();
    return "";
  }

  /** Signs out: forgets the key, or ends the session, then goes where the issuer ends its own if there is one. */
  async leave() {
    let elsewhere = null;
    if (this.withKey) sessionStorage.removeItem(KEY);
    else {
      const answer = await this.request("/auth/logout", { method: "POST" });
      if (answer.status === 200) elsewhere = (await answer.json()).end_session_url;
    }
    Object.assign(this, { user: null, role: null });
    if (typeof elsewhere === "string") location.assign(elsewhere);
    else await this.refresh();
  }

  request(path, { method = "GET", headers = {} } = {}) {
    const key = sessionStorage.getItem(KEY);
    const own = { ...headers, accept: "application/json" };
    if (key !== null) own["x-api-key"] = key;
    else if (method !== "GET" && this.#csrf !== null) own["x-csrf-token"] = this.#csrf;
    // With a key the cookie stays at home, or the service would ask for the session's token.
    return fetch(path, { method, headers: own, credentials: key === null ? "same-origin" : "omit", cache: "no-store", redirect: "error" });
  }

  /** True if an issuer is configured, where `/auth/login` leads to. */
  async hasIssuer() {
    try {
      return (await fetch("/auth/login", { redirect: "manual", cache: "no-store" })).type === "opaqueredirect";
    } catch {
      return false;
    }
  }
}

/** What a problem document says, in a sentence. */
export async function problemOf(answer) {
  let said = null;
  try {
    said = await answer.json();
  } catch {
    said = null; // not ours: a proxy's page, or nothing
  }
  const detail = typeof said?.detail === "string" ? said.detail : `The service answered ${answer.status}`;
  const wait = answer.headers.get("retry-after");
  return wait === null ? detail : `${detail}. Try again in ${wait} s.`;
}
