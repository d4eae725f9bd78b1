// Batches of the same input side by side: what each cost, how long it took, and where their answers differ.

import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { ACTIVE, count, duration, endedAt, latency, moment, nameOf, stateOf } from "./format.js";
import { badge, emptyNote, faultNote } from "./parts.js";

const LISTED = 100;
const PAGE = 50;
const SIDES_MAX = 4;

export async function comparePage(content, [ids = ""], signal) {
  const chosen = ids.split(",").filter(Boolean).slice(0, SIDES_MAX);
  replace(content, h("h1", {}, "Compare"), h("p", { class: "muted" }, "Loading"));
  try {
    if (chosen.length < 2) return choose(content, (await get(`/v1/batches?limit=${LISTED}`)).data, chosen);
    const batches = await Promise.all(chosen.map((id) => get(`/v1/batches/${encodeURIComponent(id)}`)));
    if (!signal.aborted) sideBySide(content, batches, signal);
  } catch (error) {
    if (!signal.aborted) replace(content, h("h1", {}, "Compare"), faultNote(error));
  }
  return undefined;
}

function choose(content, batches, chosen) {
  const picked = new Set(chosen);
  const go = h("button", { class: "primary", disabled: true, onclick: () => { location.hash = `#/compare/${[...picked].join(",")}`; } }, "Compare");
  const sets = new Map();
  for (const batch of batches.filter((found) => found.request_counts.total)) {
    sets.set(batch.input_file_id, [...(sets.get(batch.input_file_id) || []), batch]);
  }
  const ordered = [...sets.values()].sort((left, right) => right.length - left.length);
  replace(content, h("h1", {}, "Compare"),
    h("p", { class: "muted" }, `Pick two to ${SIDES_MAX} batches over the same input. Runs are grouped by their input file; a batch's Clone runs its input again.`),
    h("div", { class: "tools" }, go),
    ordered.length ? ordered.map((set) => h("fieldset", { class: "card set" },
      h("legend", {}, `${nameOf(set.at(-1))}, ${count(set[0].request_counts.total)} rows`),
      set.map((batch) => h("label", {},
        h("input", { type: "checkbox", value: batch.id, checked: picked.has(batch.id), onchange: (event) => { if (event.target.checked) picked.add(batch.id); else picked.delete(batch.id); go.disabled = picked.size < 2 || picked.size > SIDES_MAX; } }),
        h("span", { class: "name" }, nameOf(batch)), badge(stateOf(batch)), h("span", { class: "model" }, batch.model || "several models"), h("span", { class: "muted" }, moment(batch.created_at)))))) : emptyNote("There is no batch to compare yet."));
}

function sideBySide(content, batches, signal) {
  const rows = Math.max(...batches.map((batch) => batch.request_counts.completed + batch.request_counts.failed));
  const state = { offset: 0, differing: false };
  const table = h("div", { class: "scroll" });
  const place = h("span", { class: "muted", role: "status" });
  const back = h("button", { onclick: () => turn(-PAGE) }, "Previous");
  const on = h("button", { onclick: () => turn(PAGE) }, "Next");
  const only = h("label", {}, h("input", { type: "checkbox", onchange: (event) => { state.differing = event.target.checked; draw(); } }), " Only rows that differ");
  const same = batches.every((batch) => batch.input_file_id === batches[0].input_file_id);
  replace(content,
    h("p", { class: "crumb" }, h("a", { href: "#/compare" }, "Compare")),
    h("h1", {}, `${batches.length} batches side by side`),
    same ? null : h("p", { class: "fault" }, "These batches have different input files; rows are matched by their place in the file."),
    h("div", { class: "scroll" }, summary(batches)),
    h("div", { class: "tools" }, back, on, place, only), table);

  function turn(by) {
    state.offset = Math.max(0, Math.min(state.offset + by, Math.max(0, rows - 1)));
    draw();
  }

  async function draw() {
    const pages = await Promise.all(batches.map((batch) => get(`/v1/batches/${batch.id}/rows?offset=${state.offset}&limit=${PAGE}`)));
    if (signal.aborted) return;
    const found = new Map();
    pages.forEach((page, side) => page.data.forEach((row) => {
      if (!found.has(row.index)) found.set(row.index, []);
      found.get(row.index)[side] = row;
    }));
    const lines = [...found.entries()].sort(([left], [right]) => left - right);
    const shown = state.differing ? lines.filter(([, sides]) => differ(sides, batches.length)) : lines;
    place.textContent = `Rows ${count(state.offset + 1)} to ${count(Math.min(rows, state.offset + PAGE))} of ${count(rows)}, ${count(lines.filter(([, sides]) => differ(sides, batches.length)).length)} differ`;
    back.disabled = state.offset === 0;
    on.disabled = state.offset + PAGE >= rows;
    replace(table, h("table", { class: "compare" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "num" }, "#"), h("th", { scope: "col" }, "custom_id"), batches.map((batch) => h("th", { scope: "col" }, nameOf(batch), h("small", {}, batch.model || ""))))),
      h("tbody", {}, shown.map(([index, sides]) => h("tr", { class: differ(sides, batches.length) ? "differs" : null },
        h("td", { class: "num" }, count(index)), h("th", { scope: "row" }, sides.find(Boolean).custom_id ?? "–"),
        batches.map((_, side) => answerCell(sides[side])))))));
  }

  draw();
}

function answerCell(row) {
  if (!row) return h("td", { class: "muted" }, "not finished");
  const bad = row.status_code === null || row.status_code >= 400;
  return h("td", { class: bad ? "bad" : null }, h("span", { class: "clip" }, row.text ?? row.error_message ?? ""), h("small", {}, `${count(row.completion_tokens)} tokens · ${latency(row.latency_ms)}`));
}

function summary(batches) {
  const took = (batch) => (ACTIVE.has(batch.status) ? "running" : duration(endedAt(batch) - batch.created_at));
  const lines = {
    State: (batch) => badge(stateOf(batch)),
    Model: (batch) => batch.model || "several models",
    Finished: (batch) => `${count(batch.request_counts.completed + batch.request_counts.failed)} of ${count(batch.request_counts.total)}`,
    Failed: (batch) => count(batch.request_counts.failed),
    "Tokens in": (batch) => count(batch.usage.input_tokens),
    "Tokens out": (batch) => count(batch.usage.output_tokens),
    "Tokens out a row": (batch) => count(batch.usage.output_tokens / Math.max(1, batch.request_counts.completed)),
    Took: took,
  };
  return h("table", { class: "summary" },
    h("thead", {}, h("tr", {}, h("td", {}), batches.map((batch) => h("th", { scope: "col" }, h("a", { href: `#/batch/${batch.id}` }, nameOf(batch)))))),
    h("tbody", {}, Object.entries(lines).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), batches.map((batch) => h("td", {}, value(batch)))))));
}

function differ(sides, wide) {
  const texts = new Set();
  for (let side = 0; side < wide; side += 1) texts.add(sides[side] ? `${sides[side].status_code}|${sides[side].text}` : null);
  return texts.size > 1;
}
