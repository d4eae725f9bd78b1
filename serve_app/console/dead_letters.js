// The requests that failed for good, grouped by reason, and the way to run them again.

import { get, post } from "./api.js";
import { h, replace, toast } from "./dom.js";
import { ACTIVE, count, moment } from "./format.js";
import { emptyNote, faultNote } from "./parts.js";

const PAGE = 1000;
const SHOWN_MAX = 100; // of one group; all of it is in the results table under "Failed"

export function deadLetters(panel, id, _seen, signal) {
  const state = { letters: [], more: false, after: null, known: "", chosen: new Set(), batch: null };

  async function read(after) {
    const page = await get(`/v1/batches/${id}/failed?limit=${PAGE}${after === null ? "" : `&after=${after}`}`);
    state.letters = after === null ? page.data : [...state.letters, ...page.data];
    state.more = page.has_more;
    state.after = page.last_id;
  }

  async function retry(body, said) {
    try {
      await post(`/v1/batches/${id}/retry`, body);
      state.chosen.clear();
      toast(said);
    } catch (error) {
      toast(error.message);
    }
  }

  function show() {
    if (signal.aborted) return;
    const active = ACTIVE.has(state.batch.status);
    if (!state.letters.length) return replace(panel, emptyNote("No request has failed for good."));
    const chosen = () => state.letters.filter((letter) => state.chosen.has(letter.index) && letter.custom_id !== null).map((letter) => letter.custom_id);
    const selected = h("button", { disabled: active || !state.chosen.size, onclick: () => retry({ custom_ids: chosen() }, "The selected requests run again.") }, `Retry selected (${count(state.chosen.size)})`);
    replace(panel,
      h("div", { class: "tools" },
        h("button", { class: "primary", disabled: active, onclick: () => retry({}, "All failed requests run again.") }, `Retry all (${count(state.batch.request_counts.failed)})`),
        selected,
        active ? h("p", { class: "muted" }, "They can run again once the batch has ended.") : null),
      groups(state.letters).map((group) => groupCard(group, state, active, retry, show)),
      state.more ? h("button", { onclick: async () => { await read(state.after); show(); } }, "Load more") : null);
    return undefined;
  }

  return {
    async draw(batch) {
      if (!batch) return;
      state.batch = batch;
      const now = JSON.stringify([batch.status, batch.request_counts.failed, batch.raybatch.round]);
      if (now === state.known) return;
      state.known = now;
      try {
        await read(null);
        show();
      } catch (error) {
        state.known = "";
        replace(panel, faultNote(error));
      }
    },
  };
}

function groups(letters) {
  const found = new Map();
  for (const letter of letters) {
    const name = JSON.stringify([letter.error_type, letter.error_code, letter.error_message]);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(letter);
  }
  return [...found.values()].sort((left, right) => right.length - left.length);
}

function groupCard(letters, state, active, retry, show) {
  const [{ error_type: type, error_code: code, error_message: message, status_code: status }] = letters;
  const all = letters.every((letter) => state.chosen.has(letter.index));
  const toggle = (some, on) => { for (const letter of some) { if (on) state.chosen.add(letter.index); else state.chosen.delete(letter.index); } show(); };
  const name = [type, code === type ? null : code].filter(Boolean).join(" · ");
  return h("details", { class: "card group", open: letters.length <= 20 },
    h("summary", {}, h("b", { class: "num" }, count(letters.length)), h("span", { class: "reason" }, h("b", {}, name), status ? ` ${status}` : " no answer"), h("span", { class: "message" }, message || "")),
    h("div", { class: "tools" },
      h("label", {}, h("input", { type: "checkbox", checked: all, onchange: (event) => toggle(letters, event.target.checked) }), " Select this group"),
      h("button", { disabled: active, onclick: () => retry({ error_types: [type] }, `Requests that failed with ${type} run again.`) }, `Retry all of type ${type}`)),
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, h("td", {}), ["#", "custom_id", "Attempts", "First", "Last"].map((title) => h("th", { scope: "col", class: ["#", "Attempts"].includes(title) ? "num" : null }, title)))),
      h("tbody", {}, letters.slice(0, SHOWN_MAX).map((letter) => h("tr", {},
        h("td", {}, h("input", { type: "checkbox", "aria-label": `Select row ${letter.index}`, checked: state.chosen.has(letter.index), disabled: letter.custom_id === null, onchange: (event) => toggle([letter], event.target.checked) })),
        h("td", { class: "num" }, count(letter.index)),
        h("th", { scope: "row" }, letter.custom_id ?? "–"),
        h("td", { class: "num" }, count(letter.attempts)),
        h("td", {}, moment(letter.first_at, true)),
        h("td", {}, moment(letter.last_at, true))))))),
    letters.length > SHOWN_MAX ? h("p", { class: "muted" }, `and ${count(letters.length - SHOWN_MAX)} more: see the results table, under Failed`) : null);
}
