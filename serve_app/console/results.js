// The rows of a batch: searched, filtered, sorted, and one of them whole, its request beside its answer.

import { get, headers } from "./api.js";
import { h, replace, toast } from "./dom.js";
import { ACTIVE, count, latency, moment, pretty } from "./format.js";
import { virtualTable } from "./rows.js";

const TYPED_MS = 250;
const REFRESH_MS = 2000;
const SORTS = { index: "Input order", "-finished": "Newest first", "-latency": "Slowest first", latency: "Fastest first", "-tokens": "Longest answers", tokens: "Shortest answers" };
const FINISHES = { "": "Any end", stop: "Ended by itself", length: "Cut at the limit", tool_calls: "Calls a tool", content_filter: "Filtered" };
const STATES = { all: "All rows", completed: "Completed", failed: "Failed" };

const COLUMNS = [
  { name: "#", class: "c-index num", cell: (row) => count(row.index) },
  { name: "custom_id", class: "c-id", cell: (row) => row.custom_id ?? "–" },
  { name: "Status", class: "c-status", cell: (row) => String(row.status_code ?? row.error_code ?? "–") },
  { name: "Answer", class: "c-text", cell: (row) => row.text ?? row.error_message ?? "" },
  { name: "Finish", class: "c-finish", cell: (row) => row.finish_reason ?? "" },
  { name: "Tokens", class: "c-tokens num", cell: (row) => count(row.completion_tokens) },
  { name: "Latency", class: "c-latency num", cell: (row) => latency(row.latency_ms) },
];

export function resultsTable(panel, id, _seen, signal) {
  const asked = { search: "", status: "all", sort: "index", finish_reason: "", tokens_min: "", tokens_max: "" };
  let finished = -1;
  let refreshedAt = -Infinity; // what restart() asks for is as new as the first batch drawn
  let later = 0;
  const search = h("input", { type: "search", placeholder: "Search custom_id, answer, error", "aria-label": "Search rows", maxlength: 200, oninput: typed });
  const status = select("Which rows", STATES, (value) => { asked.status = value; table.restart(); });
  const sort = select("Order of rows", SORTS, (value) => { asked.sort = value; table.restart(); });
  const finish = select("How answers end", FINISHES, (value) => { asked.finish_reason = value; table.restart(); });
  const [least, most] = ["at least", "at most"].map((words) => h("input", {
    type: "number", min: 0, step: 1, placeholder: words, "aria-label": `Tokens, ${words}`, oninput: typed,
  }));
  const length = h("span", { class: "length" }, "Tokens", least, most);
  const found = h("p", { class: "muted found", role: "status" });
  const side = h("aside", { class: "row-detail", "aria-label": "One row", hidden: true });
  const table = virtualTable("Results", COLUMNS, load, open);
  const split = h("div", { class: "split" }, table.element, side);
  replace(panel, h("div", { class: "tools" }, search, status, finish, length, sort, found), split);
  table.restart();

  async function load(offset, limit) {
    const given = Object.entries(asked).filter(([, value]) => value !== "");
    const query = new URLSearchParams([["offset", offset], ["limit", limit], ...given]);
    const page = await get(`/v1/batches/${id}/rows?${query}`);
    found.textContent = page.total === 1 ? "1 row" : `${count(page.total)} rows`;
    table.element.dataset.loaded = "yes";
    return page;
  }

  function typed() {
    clearTimeout(later);
    later = setTimeout(() => {
      const fields = { search, tokens_min: least, tokens_max: most };
      for (const [name, field] of Object.entries(fields)) if (field.validity.valid) asked[name] = field.value;
      table.restart();
    }, TYPED_MS);
  }

  async function open(row) {
    side.hidden = false;
    split.classList.add("open");
    const whole = await get(`/v1/batches/${id}/rows/${row.index}`).catch((error) => ({ request: null, response: error.message }));
    if (signal.aborted) return;
    replace(side, ...rowDetail(row, whole, { close, step }));
    side.scrollIntoView({ block: "nearest" });
  }

  function close() {
    side.hidden = true;
    split.classList.remove("open");
    table.focus();
  }

  function step(by) {
    const row = table.step(by);
    if (row) open(row);
  }

  split.addEventListener("keydown", (event) => { if (event.key === "Escape" && !side.hidden) close(); });

  return {
    draw(batch) {
      if (!batch) return;
      const now = batch.request_counts.completed + batch.request_counts.failed;
      const due = performance.now() - refreshedAt > REFRESH_MS || !ACTIVE.has(batch.status);
      if (now === finished || !due) return;
      if (finished >= 0) table.refresh();
      finished = now;
      refreshedAt = performance.now();
    },
    close() { clearTimeout(later); table.close(); },
  };
}

function rowDetail(row, whole, { close, step }) {
  const answer = answerOf(whole.response);
  return [
    h("header", {},
      h("h2", {}, `Row ${count(row.index)}`, h("small", {}, row.custom_id ?? "")),
      h("div", { class: "actions" },
        h("button", { onclick: () => step(-1), "aria-label": "Row above" }, "↑"),
        h("button", { onclick: () => step(1), "aria-label": "Row below" }, "↓"),
        h("button", { onclick: () => copy(curl(whole.request), "The curl command is on the clipboard."), disabled: whole.request === null }, "Copy as curl"),
        h("button", { onclick: close }, "Close"))),
    h("p", { class: "muted" }, [row.model, row.finish_reason, `${count(row.prompt_tokens)} + ${count(row.completion_tokens)} tokens`, latency(row.latency_ms), `attempt ${row.attempt}`, row.engine_id, moment(row.finished_at, true)].filter(Boolean).join(" · ")),
    answer ? h("p", { class: "answer" }, answer) : null,
    h("div", { class: "beside" },
      h("section", {}, h("h3", {}, "Request"), h("pre", { tabindex: "0" }, whole.request === null ? "The input's line cannot be read." : pretty(whole.request))),
      h("section", {}, h("h3", {}, "Response"), h("pre", { tabindex: "0" }, pretty(whole.response)))),
  ];
}

// The words of an answer, where the endpoint has some.
function answerOf(line) {
  try {
    const body = JSON.parse(line).response?.body;
    return body?.choices?.[0]?.message?.content ?? body?.choices?.[0]?.text ?? body?.error?.message ?? "";
  } catch {
    return "";
  }
}

// The same request as a batch of one line.
function curl(line) {
  const quoted = `'${line.replaceAll("'", "'\\''")}'`;
  const key = headers().Authorization ? ` \\\n  -H "Authorization: Bearer $RAYBATCH_API_KEY"` : "";
  const url = JSON.parse(line).url;
  return `printf '%s\\n' ${quoted} |\n  curl -sS ${location.origin}/v1/batches${key} \\\n  -F endpoint=${url} -F 'file=@-;filename=row.jsonl'`;
}

async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
    toast(said);
  } catch {
    toast("The browser does not let this page write to the clipboard here.");
  }
}

function select(label, options, chosen) {
  return h("select", { "aria-label": label, onchange: (event) => chosen(event.target.value) }, Object.entries(options).map(([value, title]) => h("option", { value }, title)));
}
