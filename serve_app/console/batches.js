// Batches: the list, and a way in for a new one.

import { get, poll } from "./api.js";
import { h, replace } from "./dom.js";
import { ACTIVE, WORDS, count, duration, endedAt, etaWords, moment, nameOf, shortId, stateOf } from "./format.js";
import { badge, emptyNote, progressBar, progressWords } from "./parts.js";
import { submitForm } from "./submit.js";

const LOOK_MS = 2000;
const PAGE = 100;
const FILTERS = ["all", "active", "completed", "failed", "cancelled", "expired"];

export function batchesPage(content, _, signal) {
  const view = { batches: [], more: false, older: [], state: "all", search: "" };
  const table = h("div", { class: "scroll" });
  const note = h("div", {});
  const search = h("input", { type: "search", placeholder: "Search name, id, model, metadata", "aria-label": "Search batches", oninput: () => { view.search = search.value.trim().toLowerCase(); draw(); } });
  const filter = h("select", { "aria-label": "Which batches", onchange: () => { view.state = filter.value; draw(); } },
    FILTERS.map((name) => h("option", { value: name }, name === "all" ? "All states" : WORDS[name] || name)));
  const older = h("button", { hidden: true, onclick: loadOlder }, "Load older batches");

  replace(content, h("h1", {}, "Batches"), submitForm(signal), h("div", { class: "tools" }, search, filter), table, note, older);

  function draw() {
    const shown = [...view.batches, ...view.older].filter((batch) => matches(batch, view));
    older.hidden = !view.more;
    replace(table, shown.length ? batchTable(shown) : null);
    replace(note, shown.length ? null : emptyNote(view.batches.length ? "No batch matches." : "No batch yet. Drop a JSONL file above."));
  }

  async function loadOlder() {
    const last = [...view.batches, ...view.older].at(-1);
    const page = await get(`/v1/batches?limit=${PAGE}&after=${encodeURIComponent(last.id)}`);
    view.older.push(...page.data);
    view.more = page.has_more;
    draw();
  }

  poll(async () => {
    const page = await get(`/v1/batches?limit=${PAGE}`);
    if (signal.aborted) return;
    const known = new Set(page.data.map((batch) => batch.id));
    view.older = view.older.filter((batch) => !known.has(batch.id));
    view.batches = page.data;
    if (!view.older.length) view.more = page.has_more;
    draw();
  }, LOOK_MS, signal);
}

function matches(batch, view) {
  if (view.state === "active" && !ACTIVE.has(batch.status)) return false;
  if (!["all", "active"].includes(view.state) && batch.status !== view.state) return false;
  const text = [batch.id, batch.model, batch.endpoint, batch.input_file_id, ...Object.entries(batch.metadata || {}).flat()].join(" ");
  return text.toLowerCase().includes(view.search);
}

function batchTable(batches) {
  const columns = ["Batch", "State", "Model", "Progress", "", "Rows", "Failed", "Created", "Time"];
  const right = new Set(["Rows", "Failed", "Time"]);
  return h("table", { class: "batches" },
    h("thead", {}, h("tr", {}, columns.map((name) => (name ? h("th", { scope: "col", class: right.has(name) ? "num" : null }, name) : h("td", {}))))),
    h("tbody", {}, batches.map((batch) => h("tr", {},
      h("th", { scope: "row" }, h("a", { href: `#/batch/${batch.id}` }, nameOf(batch)), batch.metadata && batch.metadata.name ? h("small", {}, shortId(batch.id)) : null),
      h("td", { class: "b-state" }, badge(stateOf(batch))),
      h("td", { class: "b-model model" }, batch.model || (batch.status === "validating" || batch.status === "failed" ? "–" : "several")),
      h("td", { class: "b-bar wide" }, progressBar(batch)),
      h("td", { class: "b-share num" }, progressWords(batch)),
      h("td", { class: "b-rows num" }, count(batch.request_counts.total)),
      h("td", { class: `b-failed num${batch.request_counts.failed ? " bad" : ""}` }, count(batch.request_counts.failed)),
      h("td", { class: "b-created" }, moment(batch.created_at)),
      h("td", { class: "b-time num" }, ACTIVE.has(batch.status) ? etaWords(batch) : duration(endedAt(batch) - batch.created_at))))));
}
