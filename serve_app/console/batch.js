// One batch: how far it is, its rows, its dead letters, its log, its files, and what can be done with it.

import { download, follow, get, pause, post, remove } from "./api.js";
import { Trail, sparkline } from "./chart.js";
import { deadLetters } from "./dead_letters.js";
import { ask, h, replace, toast } from "./dom.js";
import { ACTIVE, count, duration, endedAt, etaWords, moment, nameOf, rate, stateOf } from "./format.js";
import { badge, emptyNote, faultNote, figure, progressBar, progressWords } from "./parts.js";
import { resultsTable } from "./results.js";

const TABS = { results: "Results", failed: "Dead letters", log: "Log", files: "Details" };
const LOG_MAX = 1000;

export function batchPage(content, [id, wanted], signal) {
  const seen = { batch: null, log: [], trail: new Trail(), shown: "", tab: null };
  const head = h("div", { class: "batch-head" });
  const actions = h("div", { class: "actions" });
  const bar = h("div", {});
  const figures = h("dl", { class: "figures" });
  const line = sparkline("Tokens a second while this page was open");
  const pace = h("div", { class: "card pace-one" }, h("h2", {}, "Tokens a second, as seen here"), line.element);
  const faults = h("div", {});
  const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Of this batch" });
  const panel = h("div", { role: "tabpanel", id: "panel", tabindex: "-1" });
  replace(content, head, bar, figures, pace, faults, tabs, panel);

  for (const [name, title] of Object.entries(TABS)) {
    tabs.append(h("button", { role: "tab", id: `tab-${name}`, "aria-controls": "panel", "aria-selected": "false", onclick: () => open(name), onkeydown: turn }, title));
  }

  function turn(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const names = Object.keys(TABS);
    const next = names[(names.indexOf(seen.shown) + step + names.length) % names.length];
    open(next);
    document.getElementById(`tab-${next}`).focus();
  }

  function open(name) {
    if (seen.shown === name) return;
    seen.tab?.close?.();
    seen.shown = name;
    for (const tab of tabs.children) {
      const here = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", String(here));
      tab.tabIndex = here ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${name}`);
    history.replaceState(null, "", `#/batch/${id}/${name}`);
    seen.tab = { results: resultsTable, failed: deadLetters, log: logList, files: details }[name](panel, id, seen, signal);
    seen.tab.draw(seen.batch);
  }

  function draw(batch) {
    seen.batch = batch;
    document.title = `${progressWords(batch)} ${nameOf(batch)} · raybatch`;
    replace(head,
      h("div", {},
        h("p", { class: "crumb" }, h("a", { href: "#/batches" }, "Batches")),
        h("h1", {}, nameOf(batch), " ", badge(stateOf(batch))),
        h("p", { class: "muted" }, `${batch.model || "several models"} · ${batch.endpoint} · created ${moment(batch.created_at)}`)),
      actions);
    const buttons = actionsOf(batch).map((action) => action.title).join();
    if (actions.dataset.buttons !== buttons) {
      actions.dataset.buttons = buttons;
      replace(actions, actionsOf(batch).map(button));
    }
    replace(bar, progressBar(batch));
    replace(figures, ...numbers(batch));
    line.draw(seen.trail);
    pace.hidden = !ACTIVE.has(batch.status) && seen.trail.values.length < 5;
    replace(faults, batch.errors ? faultList(batch.errors.data) : null);
    if (!seen.shown) open(TABS[wanted] ? wanted : batch.status === "failed" ? "log" : "results");
    else seen.tab.draw(batch);
  }

  function button({ title, run, primary }) {
    return h("button", {
      class: primary ? "primary" : null,
      onclick: async (event) => {
        event.currentTarget.disabled = true;
        try { await run(); } catch (error) { toast(error.message); }
        event.target.disabled = false;
      },
    }, title);
  }

  function actionsOf(batch) {
    const running = batch.status === "in_progress" || batch.status === "validating";
    const found = [];
    if (running && !batch.raybatch.paused) found.push({ title: "Pause", run: async () => draw(await post(`/v1/batches/${id}/pause`)) });
    if (running && batch.raybatch.paused) found.push({ title: "Resume", primary: true, run: async () => draw(await post(`/v1/batches/${id}/resume`)) });
    if (running) found.push({ title: "Cancel", run: cancel });
    found.push({ title: "Clone", run: clone });
    if (!ACTIVE.has(batch.status)) found.push({ title: "Delete", run: forget });
    return found;
  }

  async function cancel() {
    if (await ask("Cancel this batch? Rows that are finished are kept.", "Cancel the batch")) draw(await post(`/v1/batches/${id}/cancel`));
  }

  async function clone() {
    const { input_file_id, endpoint, completion_window, metadata, raybatch } = seen.batch;
    const name = `${nameOf(seen.batch)} (again)`;
    const batch = await post("/v1/batches", { input_file_id, endpoint, completion_window, metadata: { ...metadata, name }, priority: raybatch.priority, validation: raybatch.validation });
    location.hash = `#/batch/${batch.id}`;
    toast("The same input runs again as this new batch.");
  }

  async function forget() {
    if (!await ask("Delete this batch and its results? The input file stays.", "Delete the batch")) return;
    await remove(`/v1/batches/${id}`);
    location.hash = "#/batches";
  }

  async function watch() {
    while (!signal.aborted) {
      await follow(`/v1/batches/${id}/events`, (name, told) => {
        if (signal.aborted) return;
        if (name === "log") {
          seen.log.push(told);
          if (seen.log.length > LOG_MAX) seen.log.shift();
          if (seen.shown === "log" && seen.batch) seen.tab.draw(seen.batch);
        } else {
          seen.trail.add(told.raybatch.tokens_per_s);
          draw(told);
        }
      }, signal);
      // it has ended: a retry from elsewhere may open it again
      while (!signal.aborted && !ACTIVE.has(seen.batch.status)) {
        await pause(2000, signal);
        const now = signal.aborted ? seen.batch : await get(`/v1/batches/${id}`).catch(() => seen.batch);
        if (now.raybatch.round !== seen.batch.raybatch.round || now.status !== seen.batch.status) { seen.log = []; draw(now); break; }
      }
    }
  }

  watch().catch((error) => { if (!signal.aborted) replace(content, h("h1", {}, "No such batch"), faultNote(error), h("p", {}, h("a", { href: "#/batches" }, "All batches"))); });
}

function numbers(batch) {
  const { total, completed, failed } = batch.request_counts;
  const { usage, raybatch } = batch;
  const active = ACTIVE.has(batch.status);
  const eta = raybatch.eta;
  const found = [figure("Done", progressWords(batch), `${count(completed + failed)} of ${count(total)}`)];
  if (active) {
    found.push(
      figure("Time left", etaWords(batch), eta && !raybatch.paused ? `likely ${moment(eta.p50_at)}, nine of ten by ${moment(eta.p90_at)}` : null),
      figure("Rows/s", rate(raybatch.rows_per_s)),
      figure("Tokens/s", rate(raybatch.tokens_per_s)));
  } else {
    found.push(figure("Took", duration(endedAt(batch) - batch.created_at), `ended ${moment(endedAt(batch))}`));
  }
  found.push(
    figure("Failed", count(failed)),
    figure("Tokens in", count(usage.input_tokens), usage.input_tokens_details.cached_tokens ? `${count(usage.input_tokens_details.cached_tokens)} cached` : null),
    figure("Tokens out", count(usage.output_tokens)));
  if (raybatch.round > 1) found.push(figure("Round", count(raybatch.round)));
  return found;
}

function faultList(faults) {
  return h("section", { class: "faults" }, h("h2", {}, "Why it was refused"),
    h("ol", {}, faults.map((fault) => h("li", {}, h("p", {}, fault.line ? h("b", {}, `Line ${count(fault.line)}: `) : null, fault.message)))));
}

function logList(panel, _id, seen) {
  return {
    draw() {
      if (!seen.log.length) return replace(panel, emptyNote("Nothing has happened yet."));
      replace(panel, h("ol", { class: "log" }, seen.log.slice().reverse().map((entry) => h("li", {},
        h("time", {}, moment(entry.at, true)), h("b", {}, entry.kind.replaceAll("_", " ")), h("span", {}, entry.message, entry.engine ? h("small", {}, ` ${entry.engine}`) : null)))));
    },
  };
}

function details(panel, id) {
  let drawn = "";
  return {
    draw(batch) {
      const now = JSON.stringify([batch.status, batch.output_file_id, batch.error_file_id, batch.raybatch.round]);
      if (now === drawn) return;
      drawn = now;
      const formats = [["JSONL", "jsonl", ""], ["JSONL with failed rows", "jsonl", "&kind=all"], ["CSV", "csv", ""], ["Parquet", "parquet", ""]];
      replace(panel,
        h("h2", {}, "Download the results"),
        h("p", { class: "muted" }, "All rows that are finished by now, in input order."),
        h("div", { class: "actions" }, formats.map(([title, format, more]) => h("button", { onclick: () => download(`/v1/batches/${id}/results?format=${format}${more}`, `${id}_results.${format}`).catch((error) => toast(error.message)) }, title))),
        h("h2", {}, "Files"),
        h("dl", { class: "details" },
          row("Batch", h("code", {}, batch.id)),
          row("Input", fileLink(batch.input_file_id)),
          row("Output", batch.output_file_id ? fileLink(batch.output_file_id) : "none yet"),
          row("Errors", batch.error_file_id ? fileLink(batch.error_file_id) : "none")),
        h("h2", {}, "Settings"),
        h("dl", { class: "details" },
          row("Completion window", `${batch.completion_window}, until ${moment(batch.expires_at)}`),
          row("Priority", String(batch.raybatch.priority)),
          row("Validation", batch.raybatch.validation),
          row("Round", String(batch.raybatch.round)),
          Object.entries(batch.metadata || {}).map(([name, value]) => row(name, value))));
    },
  };
}

function row(label, value) {
  return h("div", {}, h("dt", {}, label), h("dd", {}, value));
}

function fileLink(id) {
  return h("button", { class: "link", title: "Download", onclick: () => download(`/v1/files/${id}/content`, `${id}.jsonl`).catch((error) => toast(error.message)) }, id);
}
