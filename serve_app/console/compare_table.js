// The two tables of a comparison: what each batch adds up to, and rows beside each other with what differs marked.

import { h } from "./dom.js";
import { ACTIVE, count, duration, endedAt, latency, nameOf, stateOf } from "./format.js";
import { badge } from "./parts.js";

const LED_BY = 40; // characters before the first difference that are still shown

// `found`: the server's comparison, its sides in the order of `batches`.
export function summary(batches, found) {
  const took = (batch) => (ACTIVE.has(batch.status) ? "running" : duration(endedAt(batch) - batch.created_at));
  const lines = {
    State: (_, batch) => badge(stateOf(batch)),
    Model: (_, batch) => batch.model || "several models",
    Finished: (side, batch) => `${count(side.completed + side.failed)} of ${count(batch.request_counts.total)}`,
    Failed: (side) => [count(side.failed), h("small", {}, counted(side.errors))],
    Score: (side) => (side.scored ? [h("b", {}, side.score.toFixed(3)), h("small", {}, `over ${count(side.scored)} rows`)] : null),
    Finish: (side) => counted(side.finish_reasons) || "–",
    "Tokens in": (side) => count(side.prompt_tokens),
    "Tokens out": (side) => [count(side.completion_tokens), side.completed ? h("small", {}, `${count(side.completion_tokens_mean)} a row`) : null],
    "Length of an answer": (side) => (side.completed ? `${count(side.text_characters_mean)} characters` : "–"),
    Latency: (side) => (side.latency_ms ? [latency(side.latency_ms.p50), h("small", {}, `90 % ${latency(side.latency_ms.p90)}, 99 % ${latency(side.latency_ms.p99)}`)] : "–"),
    Took: (_, batch) => took(batch),
  };
  const told = Object.entries(lines).filter(([name]) => name !== "Score" || found.sides.some((side) => side.scored));
  return h("table", { class: "summary" },
    h("caption", {}, `${count(found.differing)} of ${count(found.rows)} rows differ`),
    h("thead", {}, h("tr", {}, h("td", {}), batches.map((batch) => h("th", { scope: "col" }, h("a", { href: `#/batch/${batch.id}` }, nameOf(batch)))))),
    h("tbody", {}, told.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), batches.map((batch, place) => h("td", {}, value(found.sides[place], batch)))))));
}

export function comparedTable(batches, rows) {
  return h("table", { class: "compare" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "num" }, "#"), h("th", { scope: "col" }, "custom_id"), batches.map((batch) => h("th", { scope: "col" }, nameOf(batch), h("small", {}, batch.model || ""))))),
    h("tbody", {}, rows.map((row) => {
      const [first, ...others] = row.sides.filter(Boolean);
      const other = others.find((side) => words(side) !== words(first));
      return h("tr", { class: row.differs ? "differs" : null },
        h("td", { class: "num" }, count(row.index)), h("th", { scope: "row" }, row.custom_id ?? "–"),
        row.sides.map((side, place) => answerCell(batches[place], side, row.differs ? (side === first ? other : first) : null)));
    })));
}

function answerCell(batch, answer, beside) {
  const side = [nameOf(batch), batch.model].filter(Boolean).join(" · "); // shown where there is no room for columns
  if (!answer) return h("td", { class: "muted", "data-side": side }, "not finished");
  const bad = answer.status_code === null || answer.status_code >= 400;
  const facts = [answer.score === null ? null : `score ${Number(answer.score.toFixed(3))}`, `${count(answer.completion_tokens)} tokens`, latency(answer.latency_ms)];
  return h("td", { class: bad ? "bad" : null, "data-side": side },
    h("span", { class: "clip" }, beside ? marked(words(answer), words(beside)) : words(answer)),
    h("small", {}, facts.filter(Boolean).join(" · ")));
}

const words = (answer) => answer.text ?? answer.error_message ?? "";

// What is between the beginning and the end that both texts share.
function marked(text, other) {
  if (text === other) return text;
  const shorter = Math.min(text.length, other.length);
  let begin = 0;
  while (begin < shorter && text[begin] === other[begin]) begin += 1;
  let end = 0;
  while (end < shorter - begin && text.at(-1 - end) === other.at(-1 - end)) end += 1;
  const led = begin > 2 * LED_BY ? `…${text.slice(begin - LED_BY, begin)}` : text.slice(0, begin);
  const own = text.slice(begin, text.length - end);
  return [led, own ? h("mark", {}, own) : null, text.slice(text.length - end)];
}

function counted(numbers) {
  return Object.entries(numbers).map(([name, number]) => `${name} ${count(number)}`).join(", ");
}
