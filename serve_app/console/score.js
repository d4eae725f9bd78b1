// How the answers of a comparison are scored: a rule over all rows, or a sheet that says it of each.

import { upload } from "./api.js";
import { h, replace } from "./dom.js";
import { faultNote } from "./parts.js";

const SHEET_BYTES_MAX = 256 * 2 ** 20; // a CSV file is read whole here
const RULES = { "": "No score", exact: "The answer is", contains: "The answer has in it", regex: "The answer matches (RE2)", given: "The score is in a file" };
const COLUMNS = ["custom_id", "expected", "score", "of"];

// `apply(parameters)` of `/v1/comparisons`; what it throws, the form shows.
export function scoreForm(apply) {
  const sheets = new Map();
  const rule = h("select", { name: "score", onchange: fit }, Object.entries(RULES).map(([value, title]) => h("option", { value }, title)));
  const expected = h("input", { name: "expected", maxlength: 1000, placeholder: "for every row" });
  const sheet = h("input", { name: "sheet", type: "file", accept: ".jsonl,.ndjson,.csv" });
  const member = h("input", { name: "member", maxlength: 200, placeholder: "all of the answer" });
  const told = h("div", { "aria-live": "polite" });
  const fields = { expected: field("Text", expected), sheet: field("Or a file, CSV or JSONL", sheet), member: field("Of JSON answers, the member", member) };
  const send = h("button", { class: "primary" }, "Score");
  const hint = h("p", { class: "muted" }, "The file's columns: custom_id, then expected or score; of (a batch's id or a model) where it is for one alone. A failed row scores 0; a row that is not in the file has no score.");
  const form = h("form", { class: "score", onsubmit: (event) => { event.preventDefault(); submit(); } },
    h("div", { class: "fields" }, field("Rule", rule), Object.values(fields)), hint, told, h("div", { class: "actions" }, send));

  function fit() {
    fields.expected.hidden = !rule.value || rule.value === "given";
    fields.sheet.hidden = hint.hidden = !rule.value || rule.value === "regex";
    fields.member.hidden = !rule.value || rule.value === "given";
  }

  async function submit() {
    send.disabled = true;
    replace(told);
    try {
      await apply(await parameters());
    } catch (error) {
      replace(told, faultNote(error));
    }
    send.disabled = false;
  }

  async function parameters() {
    if (!rule.value) return {};
    const found = { score: rule.value };
    if (!fields.expected.hidden && expected.value) found.expected = expected.value;
    if (!fields.member.hidden && member.value) found.json_member = member.value;
    if (!fields.sheet.hidden && sheet.files[0] && !found.expected) found.sheet_file_id = await sent(sheet.files[0]);
    return found;
  }

  // Its file id; the same choice is sent once.
  async function sent(file) {
    if (!sheets.has(file)) {
      const content = new FormData();
      content.append("purpose", "batch");
      content.append("file", /\.csv$/i.test(file.name) ? await fromCsv(file) : file, file.name.replace(/\.csv$/i, ".jsonl"));
      sheets.set(file, (await upload("/v1/files", content, () => {})).id);
    }
    return sheets.get(file);
  }

  fit();
  return h("details", { class: "card scoring" }, h("summary", {}, "Score the answers"), form);
}

async function fromCsv(file) {
  if (file.size > SHEET_BYTES_MAX) throw new Error("A CSV file is read whole here and may have 256 MiB; a JSONL file may be longer.");
  const [head, ...rows] = records(await file.text());
  const places = COLUMNS.map((name) => (head || []).findIndex((title) => title.trim().toLowerCase() === name));
  const [id, , score] = places;
  if (id < 0) throw new Error(`The first line names no column custom_id. It has: ${(head || []).join(", ").slice(0, 200)}`);
  const lines = rows.map((row, number) => {
    const found = {};
    places.forEach((place, column) => { if (place >= 0 && row[place]) found[COLUMNS[column]] = row[place]; });
    if (score >= 0 && found.score !== undefined) {
      found.score = Number(found.score);
      if (!Number.isFinite(found.score)) throw new Error(`Row ${number + 1} of the file has the score '${row[score].slice(0, 50)}', which is no number.`);
    }
    return `${JSON.stringify(found)}\n`;
  });
  return new Blob(lines);
}

// RFC 4180: fields in quotes may hold commas, line ends and doubled quotes.
function records(text) {
  const found = [];
  let row = [];
  let read = 0;
  const plainText = text.replace(/^\ufeff/, "");
  for (const [all, quoted, plain, end] of plainText.matchAll(/(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n][^,\r\n]*|))(,|\r?\n|$)/gy)) {
    read += all.length;
    row.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === ",") continue;
    if (row.length > 1 || row[0]) found.push(row);
    row = [];
  }
  if (read < plainText.length) throw new Error(`Row ${found.length + 1} of the file is not CSV: a quote is not closed, or has text behind it.`);
  return found;
}

function field(label, control) {
  return h("label", { class: "field" }, h("span", {}, label), control);
}
