// Home: what runs, on what, how fast, and what is wrong, in words.

import { get, poll, request } from "./api.js";
import { Trail, sparkline } from "./chart.js";
import { h, replace, width } from "./dom.js";
import { ACTIVE, bytes, count, duration, etaWords, nameOf, percent, rate, stateOf } from "./format.js";
import { badge, emptyNote, figure, progressBar, progressWords } from "./parts.js";

const LOOK_MS = 2000;
const VERDICTS = {
  ok: "Everything works",
  loading: "Models are loading",
  degraded: "Something needs attention",
  unavailable: "No batch is taken in",
};
const QUIET = { paused: "Quiet hours: nothing runs now.", gentle: "Quiet hours: the GPU is used gently." };
const tokens = new Trail();
const rows = new Trail();
const perEngine = new Map();

export function homePage(content, _, signal) {
  const head = h("div", { class: "verdict" });
  const figures = h("dl", { class: "figures" });
  const running = h("section", { "aria-labelledby": "running" });
  const engines = h("section", { "aria-labelledby": "engines" });
  const models = h("section", { "aria-labelledby": "models" });
  const tokenLine = sparkline("Tokens a second while this page was open");
  const rowLine = sparkline("Rows a second while this page was open");
  const pace = h("section", { class: "pace", "aria-label": "Throughput" },
    h("div", { class: "card" }, h("h2", {}, "Tokens a second"), h("p", { class: "now", id: "now-tokens" }), tokenLine.element),
    h("div", { class: "card" }, h("h2", {}, "Rows a second"), h("p", { class: "now", id: "now-rows" }), rowLine.element));
  replace(content, head, figures, pace, running, h("div", { class: "columns" }, engines, models));
  poll(async () => {
    const [health, list] = await Promise.all([
      request("/health", {}, [503]).then((answer) => answer.json()),
      get("/v1/batches?limit=100"),
    ]);
    if (signal.aborted) return;
    const all = health.engines || [];
    const total = (name) => all.reduce((sum, engine) => sum + (engine[name] || 0), 0);
    tokens.add(total("tokens_per_s"));
    rows.add(total("rows_per_s"));
    tokenLine.draw(tokens);
    rowLine.draw(rows);
    document.getElementById("now-tokens").textContent = rate(total("tokens_per_s"));
    document.getElementById("now-rows").textContent = rate(total("rows_per_s"));
    replace(head, verdict(health));
    replace(figures, ...overall(health, list.data));
    replace(running, ...runningBatches(list.data));
    replace(engines, h("h2", { id: "engines" }, "Engines"), all.map(engineCard), all.length ? null : emptyNote("No engine has reported yet."));
    replace(models, ...modelTable(health.models || []));
  }, LOOK_MS, signal);
}

function verdict(health) {
  const alerts = [...health.reasons];
  if (health.quiet) alerts.push(QUIET[health.quiet] || `Quiet hours: ${health.quiet}.`);
  if (health.paused) alerts.push("Everything is paused. Resume with: raybatch resume");
  return [
    h("h1", {}, h("span", { class: `dot ${health.status}`, "aria-hidden": "true" }), VERDICTS[health.status] || health.status),
    alerts.length ? h("ul", { class: "alerts" }, alerts.map((text) => h("li", {}, sentence(text)))) : null,
  ];
}

function overall(health, batches) {
  const active = batches.filter((batch) => ACTIVE.has(batch.status));
  const scheduler = health.scheduler || {};
  return [
    figure("Running", count(active.length), active.length === 1 ? "batch" : "batches"),
    figure("Waiting rows", count((health.queue || {}).rows)),
    figure("Disk free", bytes(health.disk_free_bytes)),
    figure("Scheduler up", duration(scheduler.up_s), scheduler.version ? `version ${scheduler.version}` : null),
  ];
}

function runningBatches(batches) {
  const active = batches.filter((batch) => ACTIVE.has(batch.status));
  const shown = active.length ? active : batches.slice(0, 5);
  const title = h("h2", { id: "running" }, active.length ? "Running" : "Latest batches");
  if (!shown.length) {
    return [h("h2", { id: "running" }, "No batch yet"), emptyNote("Drop a JSONL file on the ", h("a", { href: "#/batches" }, "batches page"), ", or send one to POST /v1/batches.")];
  }
  return [title, h("ul", { class: "runs" }, shown.map((batch) => h("li", {},
    h("a", { class: "run", href: `#/batch/${batch.id}` },
      h("span", { class: "name" }, nameOf(batch)),
      badge(stateOf(batch)),
      h("span", { class: "model" }, batch.model || "several models"),
      progressBar(batch),
      h("span", { class: "num" }, progressWords(batch)),
      h("span", { class: "num eta" }, ACTIVE.has(batch.status) ? etaWords(batch) : `${count(batch.request_counts.total)} rows`)))))];
}

function engineCard(engine) {
  const trail = perEngine.get(engine.id) || perEngine.set(engine.id, { trail: new Trail(90), line: sparkline("Tokens a second") }).get(engine.id);
  trail.trail.add(engine.tokens_per_s);
  trail.line.draw(trail.trail);
  return h("article", { class: "card engine" },
    h("header", {}, h("h3", {}, engine.id), h("span", { class: `badge ${engine.phase}` }, engine.phase)),
    h("p", { class: "muted" }, engine.models.slice(0, 1).join(", ")),
    h("dl", { class: "facts" },
      fact("Tokens/s", rate(engine.tokens_per_s)),
      fact("Rows in flight", `${count(engine.running)} of ${count(engine.window)}`),
      fact("Key-value cache", percent(engine.kv_cache_usage)),
      fact("Last heard of", `${duration(engine.heartbeat_age_s)} ago`)),
    trail.line.element,
    engine.gpus.map(gpuLine),
    engine.error ? h("p", { class: "fault" }, engine.error) : null);
}

function gpuLine(gpu) {
  const bar = h("span", { class: "done" });
  width(bar, gpu.memory_used_bytes / gpu.memory_total_bytes);
  const words = `${bytes(gpu.memory_used_bytes)} of ${bytes(gpu.memory_total_bytes)}`;
  return h("div", { class: "gpu" },
    h("p", {}, h("b", {}, `GPU ${gpu.index}`), ` ${gpu.name}`),
    h("div", { class: "bar", role: "img", "aria-label": `memory ${words}` }, bar),
    h("p", { class: "muted" }, `${words} · ${count(gpu.temperature_c)} °C · ${count(gpu.power_w)} of ${count(gpu.power_limit_w)} W · ${percent(gpu.utilization)} busy${gpu.throttle_reasons.length ? ` · throttled: ${gpu.throttle_reasons.join(", ")}` : ""}`));
}

function modelTable(models) {
  return [
    h("h2", { id: "models" }, "Queue by model"),
    models.length ? h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, ["Model", "State"].map((name) => h("th", { scope: "col" }, name)), ["Waiting rows", "Rows/s"].map((name) => h("th", { scope: "col", class: "num" }, name)))),
      h("tbody", {}, models.map((model) => h("tr", {},
        h("th", { scope: "row" }, model.id),
        h("td", {}, h("span", { class: `badge ${model.state}`, title: model.error }, model.state)),
        h("td", { class: "num" }, count(model.queued_rows)),
        h("td", { class: "num" }, rate(model.rows_per_s))))))) : emptyNote("No model is configured."),
  ];
}

function fact(label, value) {
  return h("div", {}, h("dt", {}, label), h("dd", {}, value));
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
