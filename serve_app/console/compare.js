// Batches over the same questions side by side: which belong together, what each adds up to, where their answers differ.

import { download, get } from "./api.js";
import { comparedTable, summary } from "./compare_table.js";
import { h, replace, toast } from "./dom.js";
import { count, moment, nameOf, stateOf } from "./format.js";
import { badge, emptyNote, faultNote } from "./parts.js";
import { scoreForm } from "./score.js";

const LISTED = 100;
const PAGE = 50;
const SIDES_MAX = 4;

export async function comparePage(content, [ids = ""], signal) {
  const chosen = ids.split(",").filter(Boolean).slice(0, SIDES_MAX);
  replace(content, h("h1", {}, "Compare"), h("p", { class: "muted" }, "Loading"));
  try {
    const datasets = (await get(`/v1/datasets?limit=${LISTED}`)).data;
    if (chosen.length < 2) {
      const batches = (await get(`/v1/batches?limit=${LISTED}`)).data;
      if (!signal.aborted) choose(content, batches, datasets, chosen);
    } else {
      const batches = await Promise.all(chosen.map((id) => get(`/v1/batches/${encodeURIComponent(id)}`)));
      if (!signal.aborted) sideBySide(content, batches, datasets, signal);
    }
  } catch (error) {
    if (!signal.aborted) replace(content, h("h1", {}, "Compare"), faultNote(error));
  }
}

function choose(content, batches, datasets, chosen) {
  const picked = new Set(chosen);
  const go = h("button", { class: "primary", disabled: true, onclick: () => { location.hash = `#/compare/${[...picked].join(",")}`; } }, "Compare");
  const known = new Map(batches.filter((batch) => batch.request_counts.total).map((batch) => [batch.id, batch]));
  const sets = datasets.map((dataset) => dataset.batch_ids.map((id) => known.get(id)).filter(Boolean));
  for (const batch of sets.flat()) known.delete(batch.id);
  const alone = [...known.values()];
  const set = (title, members) => h("fieldset", { class: "card set" }, h("legend", {}, title), members.map(choice));

  function choice(batch) {
    const box = h("input", { type: "checkbox", value: batch.id, checked: picked.has(batch.id), onchange: () => {
      if (box.checked) picked.add(batch.id); else picked.delete(batch.id);
      go.disabled = picked.size < 2 || picked.size > SIDES_MAX;
    } });
    return h("label", {}, box, h("span", { class: "name" }, nameOf(batch)), badge(stateOf(batch)), h("span", { class: "model" }, batch.model || "several models"), h("span", { class: "muted" }, moment(batch.created_at)));
  }

  replace(content, h("h1", {}, "Compare"),
    h("p", { class: "muted" }, `Pick two to ${SIDES_MAX} batches. Runs over the same questions stand together, whichever model was asked; a batch's Clone runs its input again.`),
    h("div", { class: "tools" }, go),
    sets.filter((members) => members.length).map((members) => set(`${nameOf(members.at(-1))}, ${count(members[0].request_counts.total)} rows`, members)),
    alone.length ? set(sets.length ? "Batches that no other asks the same as" : "No two batches ask the same yet", alone) : null,
    batches.length ? null : emptyNote("There is no batch to compare yet."));
}

function sideBySide(content, batches, datasets, signal) {
  const state = { offset: 0, only: "all", score: {}, total: 0, asked: 0 };
  const sums = h("div", { class: "scroll" });
  const table = h("div", { class: "scroll" });
  const fault = h("div", {});
  const place = h("span", { class: "muted", role: "status" });
  const back = h("button", { onclick: () => turn(-PAGE) }, "Previous");
  const on = h("button", { onclick: () => turn(PAGE) }, "Next");
  const only = h("label", {}, h("input", { type: "checkbox", onchange: (event) => { state.only = event.target.checked ? "differing" : "all"; state.offset = 0; drawRows(); } }), " Only rows that differ");
  const file = (format) => h("button", { onclick: () => download(`/v1/comparisons/results?${query({ format, only: state.only })}`, `comparison.${format}`).catch((error) => toast(error.message)) }, `Download ${format.toUpperCase()}`);
  const same = batches.every((batch) => batch.input_file_id === batches[0].input_file_id)
    || datasets.some((dataset) => batches.every((batch) => dataset.batch_ids.includes(batch.id)));
  replace(content,
    h("p", { class: "crumb" }, h("a", { href: "#/compare" }, "Compare")),
    h("h1", {}, `${batches.length} batches side by side`),
    same ? null : h("p", { class: "fault" }, "These batches do not ask the same; rows are matched by their place in the file."),
    sums, scoreForm((score) => { state.score = score; return draw(); }), fault,
    h("div", { class: "tools" }, back, on, place, only, file("csv"), file("jsonl")), table);

  const query = (more) => new URLSearchParams([...batches.map((batch) => ["batch_id", batch.id]), ...Object.entries({ ...state.score, ...more })]);

  function turn(by) {
    state.offset = Math.max(0, Math.min(state.offset + by, Math.max(0, state.total - 1)));
    drawRows();
  }

  // The rows come behind the sums: the server remembers what it found for those.
  async function draw() {
    try {
      const found = await get(`/v1/comparisons?${query({})}`);
      if (signal.aborted) return;
      replace(sums, summary(batches, found));
      replace(fault);
    } catch (error) {
      if (!signal.aborted) replace(fault, faultNote(error));
      return;
    }
    await drawRows();
  }

  async function drawRows() {
    state.asked += 1;
    const asked = state.asked;
    const page = await get(`/v1/comparisons/rows?${query({ offset: state.offset, limit: PAGE, only: state.only })}`).catch((error) => { replace(fault, faultNote(error)); });
    if (signal.aborted || !page || asked !== state.asked) return;
    state.total = page.total;
    const kind = state.only === "all" ? "Rows" : "Differing rows";
    place.textContent = page.total ? `${kind} ${count(page.offset + 1)} to ${count(page.offset + page.data.length)} of ${count(page.total)}` : "No rows";
    back.disabled = state.offset === 0;
    on.disabled = !page.has_more;
    replace(table, comparedTable(batches, page.data));
  }

  draw();
}
