// A new batch: a JSONL file dropped or chosen, looked at here, checked by the server, its faults shown with their lines.

import { get, pause, upload } from "./api.js";
import { h, replace, width } from "./dom.js";
import { bytes, count, duration } from "./format.js";
import { faultNote } from "./parts.js";

const COUNTED_BYTES_MAX = 64 * 2 ** 20; // a larger file is not read here only to count its lines
const LINE_SHOWN = 400;
const MODEL = /"model"\s*:\s*"((?:[^"\\]|\\.)*)"/;

export function submitForm(signal) {
  const place = h("div", { class: "submit" });
  const input = h("input", { type: "file", accept: ".jsonl,.ndjson,.txt,application/jsonl", class: "hidden", id: "file", onchange: () => input.files[0] && choose(input.files[0]) });
  const zone = h("div", { class: "drop" },
    h("p", {}, h("label", { for: "file", class: "button primary" }, "New batch"), h("span", {}, "Choose a JSONL file, or drop it here.")), input);
  replace(place, zone);

  for (const name of ["dragover", "dragenter"]) place.addEventListener(name, (event) => { event.preventDefault(); place.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) place.addEventListener(name, () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => { event.preventDefault(); const file = event.dataTransfer.files[0]; if (file) choose(file); });

  async function choose(file) {
    const looked = await look(file);
    const models = (await get("/v1/models").catch(() => ({ data: [] }))).data.map((model) => model.id);
    const name = h("input", { name: "name", maxlength: 512, value: file.name.replace(/\.(jsonl|ndjson|txt)$/i, "") });
    const model = h("select", { name: "model" }, h("option", { value: "" }, looked.model ? `As in the file (${looked.model})` : "As in the file"), models.map((id) => h("option", { value: id }, id)));
    const endpoint = h("select", { name: "endpoint" }, ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"].map((path) => h("option", { selected: path === looked.url }, path)));
    const priority = h("input", { name: "priority", type: "number", min: -100, max: 100, value: 0 });
    const relaxed = h("input", { type: "checkbox", name: "relaxed", id: "relaxed" });
    const told = h("div", { "aria-live": "polite" });
    const send = h("button", { class: "primary" }, "Submit");
    const form = h("form", { class: "card new", onsubmit: (event) => { event.preventDefault(); submit(); } },
      h("h2", {}, file.name),
      h("p", { class: "muted" }, `${bytes(file.size)}${looked.lines === null ? "" : ` · ${count(looked.lines)} lines`}`),
      h("div", { class: "fields" }, field("Name", name), field("Model", model), field("Endpoint", endpoint), field("Priority", priority)),
      h("p", {}, relaxed, h("label", { for: "relaxed" }, " Let bad lines fail alone instead of refusing the whole file")),
      told,
      h("div", { class: "actions" }, send, h("button", { type: "button", onclick: () => { input.value = ""; replace(place, zone); } }, "Back")));
    replace(place, form);
    send.focus();

    async function submit() {
      const content = new FormData();
      if (model.value) content.append("model", model.value);
      content.append("endpoint", endpoint.value);
      content.append("priority", priority.value || "0");
      if (relaxed.checked) content.append("validation", "relaxed");
      if (name.value.trim()) content.append("metadata", JSON.stringify({ name: name.value.trim() }));
      content.append("file", file, file.name);
      const sent = h("span", { class: "done" });
      const words = h("p", { class: "muted" }, "Sending");
      replace(told, words, h("div", { class: "bar" }, sent));
      send.disabled = true;
      try {
        let batch = await upload("/v1/batches", content, (loaded, total) => width(sent, loaded / total));
        const estimate = batch.estimate;
        words.textContent = `Checking every line${estimate ? `, then about ${duration(estimate.estimated_time_minutes * 60)}` : ""}`;
        while (batch.status === "validating" && !signal.aborted) {
          await pause(400, signal);
          batch = await get(`/v1/batches/${batch.id}`);
        }
        if (signal.aborted) return;
        if (batch.status === "failed" && batch.errors) replace(told, await lineFaults(batch.errors.data, file));
        else location.hash = `#/batch/${batch.id}`;
      } catch (error) {
        replace(told, faultNote(error));
      }
      send.disabled = false;
    }
  }
  return place;
}

// What the file says of itself in its first line.
async function look(file) {
  const head = await file.slice(0, 65536).text();
  const first = head.split("\n").find((line) => line.trim()) || "";
  let url = null;
  try { url = JSON.parse(first).url; } catch { /* the server will say so, with the line */ }
  const model = MODEL.exec(first);
  return { model: model && model[1], url, lines: file.size <= COUNTED_BYTES_MAX ? await countLines(file) : null };
}

async function countLines(file) {
  let lines = 0;
  await eachLine(file, (line) => { if (line.trim()) lines += 1; });
  return lines;
}

// The server's faults, each with its line out of the user's own file.
async function lineFaults(faults, file) {
  const wanted = new Map(faults.filter((fault) => fault.line).map((fault) => [fault.line, ""]));
  const last = Math.max(0, ...wanted.keys());
  await eachLine(file, (line, number) => {
    if (wanted.has(number)) wanted.set(number, line);
    return number < last;
  });
  return h("div", { class: "faults", role: "alert" },
    h("h3", {}, `The file was refused: ${count(faults.length)} ${faults.length === 1 ? "fault" : "faults"}`),
    h("ol", {}, faults.map((fault) => h("li", {},
      h("p", {}, fault.line ? h("b", {}, `Line ${count(fault.line)}: `) : null, fault.message),
      fault.line ? h("pre", {}, (wanted.get(fault.line) || "").slice(0, LINE_SHOWN) || "(an empty line)") : null))));
}

// `told(line, number)` for each line, in constant memory, until it answers false.
async function eachLine(file, told) {
  const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let number = 0;
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value || "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      number += 1;
      if (told(line, number) === false) return reader.cancel();
    }
    if (done) return undefined;
  }
}

function field(label, control) {
  return h("label", { class: "field" }, h("span", {}, label), control);
}
