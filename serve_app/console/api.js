// How the console speaks to the API: the key, errors in the server's own words, streams, and how fresh it all is.

import { h } from "./dom.js";

const KEY = "raybatch.key";
const STALE_MS = 6000;

let lastHeard = Date.now();
let lastFault = "";
let asking = null;

export class Refused extends Error {
  constructor(status, error) {
    super(error.message || `The server answered ${status}.`);
    this.status = status;
    this.code = error.code || null;
  }
}

export const key = () => sessionStorage.getItem(KEY);

export function headers() {
  return key() ? { Authorization: `Bearer ${key()}` } : {};
}

export async function get(path) {
  return (await request(path)).json();
}

export async function post(path, body) {
  const content = body === undefined ? {} : { body: JSON.stringify(body) };
  const answer = await request(path, { method: "POST", headers: { "Content-Type": "application/json" }, ...content });
  return answer.json();
}

export async function remove(path) {
  return (await request(path, { method: "DELETE" })).json();
}

// The answer, or Refused. A missing key is asked for, once for however many requests miss it. `health` answers 503 with content.
export async function request(path, options = {}, allowed = []) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, ...headers() }, cache: "no-store" });
  } catch (error) {
    if (error.name !== "AbortError") lastFault = "The server cannot be reached";
    throw error;
  }
  if (answer.status === 401) {
    await askForKey(Boolean(key()));
    return request(path, options, allowed);
  }
  if (answer.ok || allowed.includes(answer.status)) {
    heard();
    return answer;
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 503) lastFault = (content.error && content.error.message) || "The server is not ready";
  else heard();
  throw new Refused(answer.status, content.error || {});
}

// Calls `told(name, content)` for every event of a batch, again after a cut, until it has ended or `signal` aborts.
export async function follow(path, told, signal) {
  let last = null;
  while (!signal.aborted) {
    try {
      const answer = await request(path, { signal, headers: last ? { "Last-Event-ID": last } : {} });
      let ended = false;
      for await (const event of events(answer.body)) {
        heard();
        if (event.id) last = event.id;
        if (!event.data) continue;
        const content = JSON.parse(event.data);
        told(event.event, content);
        if (event.event === "batch") ended = !["validating", "in_progress", "finalizing", "cancelling"].includes(content.status);
      }
      if (ended) return;
    } catch (error) {
      if (error instanceof Refused && error.status === 404) throw error;
    }
    await pause(1500, signal);
  }
}

// Runs `step` now and every `ms` while `signal` lives; faults show in the banner, and it goes on.
export async function poll(step, ms, signal) {
  while (!signal.aborted) {
    try {
      await step();
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Refused) && error.name === "Error") throw error;
    }
    await pause(document.hidden ? 4 * ms : ms, signal);
  }
}

export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

// A file for the user's disk. Without a key it is a plain link; with one the header needs a request of ours.
export async function download(path, name) {
  let url = path;
  if (key()) url = URL.createObjectURL(await (await request(path)).blob());
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  if (url !== path) setTimeout(() => URL.revokeObjectURL(url), 60000);
}

// A form with a file, with its progress. Resolves to the batch.
export function upload(path, form, progress) {
  return new Promise((resolve, reject) => {
    const sent = new XMLHttpRequest();
    sent.open("POST", path);
    for (const [name, value] of Object.entries(headers())) sent.setRequestHeader(name, value);
    sent.upload.onprogress = (event) => progress(event.loaded, event.total);
    sent.onerror = () => reject(new Error("The connection broke while the file was sent."));
    sent.onload = () => {
      let content = {};
      try { content = JSON.parse(sent.responseText); } catch { /* told by its status */ }
      if (sent.status < 400) resolve(content);
      else reject(new Refused(sent.status, content.error || {}));
    };
    sent.send(form);
  });
}

// Says plainly when what is on the screen may be old.
export function watchFreshness(banner, state) {
  setInterval(() => {
    const silent = Date.now() - lastHeard;
    const stale = silent > STALE_MS && !document.hidden && !asking;
    banner.hidden = !stale;
    if (stale) banner.textContent = `${lastFault || "Nothing heard from the server"}. What you see is ${Math.round(silent / 1000)} s old; trying again.`;
    state.textContent = stale ? "Not connected" : "Live";
    state.classList.toggle("off", stale);
  }, 500);
}

function heard() {
  lastHeard = Date.now();
  lastFault = "";
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = {};
      for (const line of block.split("\n")) {
        const colon = line.indexOf(": ");
        if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 2);
      }
      yield event;
      if (!block.trim()) continue;
    }
    lastHeard = Date.now();
  }
}

function askForKey(wrong) {
  if (asking) return asking;
  asking = new Promise((resolve) => {
    const field = h("input", { type: "password", name: "key", autocomplete: "off", required: true, "aria-label": "API key" });
    const dialog = h("dialog", { class: "key", "aria-label": "API key" },
      h("form", { method: "dialog" },
        h("h2", {}, "This server has a key"),
        h("p", {}, wrong ? "That key was not accepted. Try again." : "Give the API key once. It stays in this tab and is forgotten when the tab closes."),
        field,
        h("div", { class: "actions" }, h("button", { class: "primary" }, "Open the console"))));
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, field.value.trim());
      dialog.remove();
      asking = null;
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
}
